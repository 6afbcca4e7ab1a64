"""A C file that takes more than it may is told with its largest parts."""

import re

import numpy as np
import pytest

from gtcrn.errors import UserError
from gtcrn.export.c.budget import Budget
from gtcrn.runtime.bare_metal.emulation import require_tools, state_parts
from gtcrn.runtime.c_code import read_source

WAVE = np.random.default_rng(0).normal(0, 0.1, 4096).astype(np.float32)


@pytest.fixture(autouse=True)
def tools():
    try:
        require_tools("m4f")
    except UserError as error:
        pytest.skip(str(error))


def test_what_fits_is_told(small):
    words = Budget("m4f", 100, 100).require(small.path, WAVE)
    assert re.fullmatch(r"[\d.]+ KiB of flash, [\d.]+ KiB of RAM on m4f, with -O2", words)


@pytest.mark.parametrize(("flash", "ram"), [(1, None), (None, 1), (1, 1)])
def test_what_does_not_is_refused_with_its_largest_parts(small, flash, ram):
    with pytest.raises(UserError) as error:
        Budget("m4f", flash, ram).require(small.path, WAVE)
    told = str(error.value)
    assert "\n" not in told and ("flash_kib=1: it takes" in told) == bool(flash)
    found = re.search(r"ram_kib=1: it takes [\d.]+ KiB, most of it by (.*?);", told)
    assert bool(found) == bool(ram)
    if ram:
        parts = state_parts(read_source(small.path)) | {"stack": 1500}
        assert {part.split()[0] for part in found[1].split(", ")} <= set(parts)


def test_the_parts_of_a_state_are_all_of_it(small):
    header = (small.path / f"{small.name}.h").read_text()
    stated = int(re.search(r"/\* ([\d,]+) bytes", header)[1].replace(",", ""))
    assert 0 <= stated - sum(state_parts(read_source(small.path)).values()) < 8
