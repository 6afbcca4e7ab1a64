"""A LightningDataModule around `gtcrn.data.SpeechData`."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from gtcrn.data.speech import SpeechData


class SpeechDataModule(pl.LightningDataModule):
    """A LightningDataModule of SpeechData's loaders; a run resumed anywhere gets the items it had not seen."""

    def __init__(self, data: SpeechData):
        super().__init__()
        self.data = data
        self._position = {"epoch": 0, "batches": 0}  # where the training resumes

    def train_dataloader(self) -> DataLoader:
        return self.data.train_loader(
            epoch=self._position["epoch"],
            start=self._position["batches"] * self.data.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch: `epoch`, and in it the `batches` already trained on.

        It is exact wherever a checkpoint is saved: resumed loader workers fetch from here before `set_epoch` is called.
        """
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current.processed
        if epochs.processed == epochs.started or batches == self.trainer.num_training_batches:
            return {"epoch": epochs.started, "batches": 0}
        return {"epoch": epochs.processed, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._position = state_dict

    def val_dataloader(self) -> DataLoader:
        return self.data.validation_loader()
