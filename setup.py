"""What pyproject.toml can't say: a wheel carries the folder conf/ as gtcrn/conf."""

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(include=["gtcrn*"], exclude=["*.__pycache__*"])
configurations = ["gtcrn.conf", *(f"gtcrn.conf.{group}" for group in find_namespace_packages("conf"))]

setup(packages=packages + configurations, package_dir={"gtcrn.conf": "conf"})
