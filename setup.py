"""What pyproject.toml can't say beside finding packages: a wheel carries the folder conf/ as gtcrn/conf."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["gtcrn*"]), "gtcrn.conf"], package_dir={"gtcrn.conf": "conf"})
