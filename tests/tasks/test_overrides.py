"""Overrides that are wrong by their kind, drawn from all keys of the configuration: refused before the work."""

from functools import cache

import pytest
from hydra.errors import HydraException
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from overrides import command_line, overrides

from gtcrn.errors import UserError
from gtcrn.tasks.checking import check

SETTINGS = ("train wandb", "train timbre", "evaluate", "enhance", "export", "prepare segment", "inspect", "report")


@cache
def wrong(setting: str) -> list[str]:
    return [override.text for override in overrides(setting) if override.wrong]


@seed(1)
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SETTINGS), st.randoms(use_true_random=False))
@pytest.mark.slow
def test_refused_in_a_line(command, setting, random):
    text = random.choice(wrong(setting))
    try:
        cfg = command(*command_line(setting), text)
    except (HydraException, ValueError):  # explained by `command_line.one_line_errors`
        return
    with pytest.raises(UserError) as error:
        check(cfg)
    assert "\n" not in str(error.value), text
