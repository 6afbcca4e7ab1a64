"""The Lightning face of `gtcrn.data.SpeechData`."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from gtcrn.data.module import SpeechData


class SpeechDataModule(pl.LightningDataModule):
    """Hands SpeechData's loaders to a Trainer; a run resumed within an epoch gets the items it had not seen."""

    def __init__(self, data: SpeechData):
        super().__init__()
        self.data = data
        self._position = {"epoch": 0, "batches": 0}  # where a resumed run goes on

    def train_dataloader(self) -> DataLoader:
        return self.data.train_loader(
            epoch=self._position["epoch"],
            start=self._position["batches"] * self.data.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def state_dict(self) -> dict[str, int]:
        loop = self.trainer.fit_loop
        return {"epoch": self.trainer.current_epoch, "batches": loop.epoch_loop.batch_progress.current.processed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._position = state_dict

    def val_dataloader(self) -> DataLoader:
        return self.data.validation_loader()
