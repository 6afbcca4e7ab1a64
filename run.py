"""python run.py task=… model=… data=…: composes the configuration and hands it to its task."""

import hydra
from omegaconf import DictConfig

import gtcrn.tasks


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    gtcrn.tasks.run(cfg)


if __name__ == "__main__":
    main()
