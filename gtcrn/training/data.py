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

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        batches_seen = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return self.data.train_loader(
            epoch=trainer.current_epoch,
            start=batches_seen * self.data.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def val_dataloader(self) -> DataLoader:
        return self.data.validation_loader()
