"""The message that a user reads is one line, wherever it comes from."""

import pytest
from torch.utils.data import DataLoader

from gtcrn.errors import UserError


class Failing:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        raise UserError("a.wav: damaged; leave it out")


def test_an_error_is_one_line_whatever_a_file_is_called():
    assert str(UserError("a\nb\x1b[2J\u2028c.wav: missing")) == r"a\nb\x1b[2J\u2028c.wav: missing"


def test_an_error_from_a_loaders_worker_is_the_same_line():
    with pytest.raises(UserError, match="^a.wav: damaged; leave it out$"):
        next(iter(DataLoader(Failing(), num_workers=1)))
