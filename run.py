"""python run.py task=… model=… data=…: composes the configuration and hands it to its task."""

from typing import Any

import hydra
from omegaconf import DictConfig

import gtcrn.tasks
from gtcrn.tasks.command_line import one_line_errors


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> Any:
    return gtcrn.tasks.run(cfg)


if __name__ == "__main__":
    with one_line_errors():
        main()
