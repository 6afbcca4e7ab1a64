"""The composed configuration against types and ranges, before anything is done."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest

from gtcrn.errors import UserError
from gtcrn.tasks import keys
from gtcrn.tasks.checking import check, check_value


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (3, int),
        (3, float),
        ("a", str | None),
        (None, str | None),
        ([1, 2.5], tuple[float, float]),
        ([[1, 2], [3]], Sequence[Sequence[int]]),
        ({"dry": 0.5}, str | Mapping[str, float]),
        (["a"], str | list | dict | None),
        ("zeros", Literal["zeros", "none"]),
        (1, keys.Count),
        (None, keys.Count | None),
        ({}, keys.Section | None),
        ("???", int),
        ({"_target_": "fractions.Fraction", "numerator": 1}, Callable[[int], int] | None),
    ],
)
def test_what_fits(value, annotation):
    check_value(value, annotation, "key")


@pytest.mark.parametrize(
    ("value", "annotation", "told"),
    [
        ("soon", int, "key=soon: must be a whole number"),
        (True, int, "key=true: must be a whole number"),
        (2.0, int, "key=2.0: must be a whole number"),
        (float("nan"), float, "key=NaN: must be a number"),
        (float("inf"), float | None, "key=Infinity: must be a number or null"),
        (None, str, "key=null: must be text"),
        (5, str | list | dict | None, "key=5: must be text or a list or keys with values or null"),
        ("a", list[str], "key=a: must be a list of text"),
        ([5], list[str] | None, "key=[5]: must be a list of text or null"),
        ([1], tuple[float, float], "key=[1]: must be a list of 2 numbers"),
        ([[1, "a"]], Sequence[Sequence[int]], 'key=[[1, "a"]]: must be a list of lists of whole numbers'),
        ({"dry": "a"}, str | Mapping[str, float], "key.dry=a: must be a number"),
        ("ones", Literal["zeros", "none"] | None, "key=ones: must be one of zeros, none or null"),
        (0, keys.Count | None, "key=0: must be a whole number of at least 1 or null"),
        (-1, keys.Seed, "key=-1: must be a whole number from 0 to 4294967295"),
        (2**32, keys.Seed, "key=4294967296: must be a whole number from 0 to 4294967295"),
        (0, keys.Positive, "key=0: must be a number above 0"),
        ({"a": 1}, int, 'key={"a": 1}: must be a whole number'),
        (5, keys.Data, "key=5: must be a choice of its group, with a _target_"),
        ({"a": {"_target_": "builtins.dict"}}, Mapping[str, Annotated[dict, keys.Built("datetime.date")]], "key.a"),
        ({"_target_": "gtcrn.nosuch.Thing"}, keys.Data, "key._target_=gtcrn.nosuch.Thing: can't be found"),
        ({"_target_": "gtcrn.errors"}, keys.Data, "key._target_=gtcrn.errors: is no class or function"),
        (
            {"_target_": "gtcrn.losses.L1", "wieght": 1},
            dict,
            "key.wieght: gtcrn.losses.L1 has no such key; did you",
        ),
        ({"_target_": "gtcrn.data.speech.demo", "batch_size": "4"}, keys.Data, "key.batch_size=4: must be a whole"),
    ],
)
def test_what_does_not_fit(value, annotation, told):
    with pytest.raises(UserError) as error:
        check_value(value, annotation, "key")
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


TASKS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/task").glob("*.yaml"))


@pytest.mark.parametrize("task", TASKS)
def test_every_key_of_a_task_is_declared(command, task):
    cfg = command(f"task={task}")
    check(cfg)
    assert set(cfg) <= set(keys.declared(task))


@pytest.mark.parametrize(
    "overrides",
    [
        ["+trainer.callbacks=[{_target_: pytorch_lightning.callbacks.Timer}]"],
        ["+width=8", "model=gtcrn", "model.channels=${width}"],
        ["task=profile", "data=demo", "data.train_files=8"],
        ["task=evaluate", "data=demo", "metrics.workers=1", "model=gtcrn"],
    ],
)
def test_what_may_be_added(command, overrides):
    check(command(*overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["~loss"], "loss is missing: task=train needs it"),
        (["~trainer"], 'trainer={"max_epochs": 5}: must be a choice of its group, with a _target_'),
        (["freeze=[5]"], "freeze=[5]: must be a list of text or null"),
        (["freeze=encoder"], "freeze=encoder: must be a list of text or null"),
        (["trust=maybe"], "trust=maybe: must be true or false"),
        (["checkpoint_minutes=0"], "checkpoint_minutes=0: must be a number above 0"),
        (["metrics.validation_files=0"], "metrics.validation_files=0: must be a whole number of at least 1"),
        (["callbacks.clips.every=null"], "callbacks.clips.every=null: must be a whole number of at least 1"),
        (["metrics.validation=foo"], "metrics.validation=foo: must be a list of text"),
        (["~metrics.workers"], "metrics.workers is missing"),
        (["+metrics.tset=[stoi]"], "metrics.tset: there is no such key"),
        (["loss._target_=torch.nn.L1Loss"], "loss._target_=torch.nn.L1Loss: makes something else"),
        (["+trainer.nosuch=1"], "trainer.nosuch: pytorch_lightning.Trainer has no such key"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0: must be a whole number of"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: must be a whole number of at least 1 or -1 or null"),
        (["trainer.limit_train_batches=0.0"], "trainer.limit_train_batches=0.0: must be a number above 0 or null"),
        (["+nosuch=1"], "+nosuch: task=train has no such key"),
        (["+trainer.callbacks=5"], "trainer.callbacks=5: must be a list"),
        (["model.sample_rate=${nosuch}"], "model.sample_rate: can't be worked out"),
        (["task=inspect", "data.num_workers=-"], "data.num_workers=-: must be a whole number"),
        (["task=enhance", "level=loud"], "level=loud: must be one of as_is, normalise"),
        (
            ["task=enhance", "attenuation_limit_db=-1"],
            "attenuation_limit_db=-1: must be a number of at least 0 or null",
        ),
        (["task=evaluate", "attenuation_limit_db=.nan"], "attenuation_limit_db=.nan: must be a number of at least 0"),
        (["task=live", "attenuation_limit_db=none"], "attenuation_limit_db=none: must be a number of at least 0"),
        (["task=serve", "attenuation_limit_db=-0.5"], "attenuation_limit_db=-0.5: must be a number of at least 0"),
        (["task=evaluate", "forget_every=0"], "forget_every=0: must be a whole number of at least 1 or null"),
        (["task=evaluate", "metrics.test_files=0"], "metrics.test_files=0: must be a whole number of at least 1 or"),
        (["task=evaluate", "split=train"], "split=train: must be one of test, validation"),
        (["task=live", "devices=all"], "devices=all: must be list or null"),
        (["task=live", "block=0"], "block=0: must be a whole number of at least 1 or null"),
        (["task=live", "device_rate=fast"], "device_rate=fast: must be a whole number of at least 1 or null"),
        (["task=live", "seconds=long"], "seconds=long: must be a number above 0 or null"),
        (["task=export", "ckpt=a", "loss=mag"], "loss=mag: has no effect in task=export; leave it out"),
        (["task=enhance", "++data.root=a"], "++data.root=a: has no effect in task=enhance; leave it out"),
        (["task=report", "~trainer"], "~trainer: has no effect in task=report; leave it out"),
        (["task=report", "model=micro"], "model=micro: has no effect in task=report; leave it out"),
        (["task=download", "model.r=8"], "model.r=8: has no effect in task=download; leave it out"),
        (["task=serve", "model=micro"], "model=micro: has no effect in task=serve; leave it out"),
        (["task=serve", "port=-1"], "port=-1: must be a whole number from 0 to 65535"),
        (["task=serve", "port=65536"], "port=65536: must be a whole number from 0 to 65535"),
        # what numpy, PyTorch and joblib can't take, or what would start processes until the machine gives up
        (["seed=1000000000000"], "seed=1000000000000: must be a whole number from 0 to 4294967295"),
        (["data.seed=-1"], "data.seed=-1: must be a whole number from 0 to 4294967295"),
        (["threads=1000000000000"], "threads=1000000000000: must be a whole number from 1 to 1024"),
        (["data.num_workers=1000000000000"], "data.num_workers=1000000000000: must be a whole number from 0 to 1024"),
        (["data.prefetch=1000000000000"], "data.prefetch=1000000000000: must be a whole number from 1 to 1024"),
        (["metrics.workers=1000000000000"], "metrics.workers=1000000000000: must be a whole number from 1 to 1024"),
        (["metrics.workers=0"], "metrics.workers=0: must be a whole number from 1 to 1024 or -1"),
        (["task=prepare", "workers=100000000"], "workers=100000000: must be a whole number from 1 to 1024 or null"),
    ],
)
def test_told_before_the_work(command, overrides, told):
    with pytest.raises(UserError) as error:
        check(command(*overrides))
    assert str(error.value).startswith(told) and "\n" not in str(error.value)
