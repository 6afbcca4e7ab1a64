"""The Lightning face of `gtcrn.data.SpeechData`."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from gtcrn.data.speech import SpeechData


class SpeechDataModule(pl.LightningDataModule):
    """Hands SpeechData's loaders to a Trainer; a run resumed anywhere gets the items it had not seen."""

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
        """Return the next batch to train on, as `epoch` and `batches`, those of it that were trained on.

        It is exact wherever a checkpoint is saved: loader processes fetch from there before they hear of an epoch.
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
