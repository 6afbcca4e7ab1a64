"""Command lines that Hydra can't read are answered with one line that says how to type them."""

import shlex

import pytest
from fixtures.commands import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from gtcrn.tasks.command_line import in_quotes, one_line_errors

READER = OverridesParser.create()
UNREADABLE = ("a=b/c.wav", "take (2).wav", "[old]/x.wav", "{a/b", "#1.wav", "süß.wav", "it's.wav", 'the "best"', "a~b")


@pytest.mark.parametrize("path", UNREADABLE)
def test_how_a_path_is_typed(capsys, path):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        READER.parse_overrides([f"input={path}"])
    line = capsys.readouterr().err
    assert line.startswith(f"error: input={path}: Hydra can't read this value") and line.count("\n") == 1
    (typed,) = shlex.split(line.partition("two kinds of quotes: ")[2])
    assert READER.parse_override(typed).value() == path


@seed(1)
@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8))
def test_any_text_can_be_typed(text):
    (typed,) = shlex.split(in_quotes("input", text))
    assert READER.parse_override(typed).value() == text


@pytest.mark.parametrize("typed", ["+experiment=gtcrn_dns3", "+debug=limit", "+hparams_search=optuna"])
def test_a_plus_that_is_not_needed(capsys, monkeypatch, typed):
    monkeypatch.setattr("sys.argv", ["run.py", "seed=2", typed])
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose("seed=2", typed)
    assert capsys.readouterr().err == f"error: {typed}: leave the plus out: {typed[1:]}\n"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("model.witdh_mult=1", "model.witdh_mult: there is no such key; did you mean width_mult?"),
        ("tranier.max_epochs=1", "tranier: there is no such key; did you mean trainer?"),
        ("tranier=gpu", "tranier: there is no such key; did you mean trainer?"),
        ("hydra.rnu.dir=x", "hydra.rnu: there is no such key; did you mean run?"),
        ("max_epochs=3", "max_epochs: there is no such key; did you mean trainer.max_epochs?"),
        ("data/denoisr=gate", "data/denoisr: there is no such key; did you mean data/denoiser?"),
        ("optimizer.amsgrad=true", "lr, betas, weight_decay, fused; to add it, type +optimizer.amsgrad=true"),
        ("model=ligth_v3", "model=ligth_v3: there is no such choice; did you mean light_v3?"),
        ("model=transformer", "model=transformer: there is no such choice; there are all, dtln, dtln_32k, "),
        ("task=evalute", "task=evalute: there is no such choice; did you mean evaluate?"),
        ("loss/terms=[stft,sisdrr]", "loss/terms=sisdrr: there is no such choice; did you mean sisdr?"),
        ("hydra/launcher=jobib", "hydra/launcher=jobib: there is no such choice; did you mean joblib?"),
        ("enhance", "enhance: type task=enhance"),
    ],
)
def test_misspelt_names(capsys, monkeypatch, typed, told):
    monkeypatch.setattr("sys.argv", ["gtcrn", typed])
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose(typed)
    line = capsys.readouterr().err
    assert told in line and line.count("\n") == 1


def test_a_misspelt_choice_in_a_file_is_told_with_the_file(capsys, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults: [{/model@teacher: ligth_v3}]\n")
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose(f"hydra.searchpath=[{tmp_path}]", "experiment=mine")
    told = "model=ligth_v3: there is no such choice (asked for in experiment/mine); did you mean light_v3?"
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize("typed", ["logger=null", "streaming=true", "trainer=2"])
def test_a_choice_that_is_no_text(capsys, monkeypatch, typed):
    monkeypatch.setattr("sys.argv", ["run.py", "-m", "seed=null", "model=micro,dtln", typed])
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose("seed=null", "model=micro", typed)
    assert capsys.readouterr().err.startswith(f"error: {typed}: choose one of ")


def test_a_key_without_a_value(capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        READER.parse_overrides(["input"])
    assert capsys.readouterr().err == "error: input: expected key=value, such as task=enhance; see gtcrn --help\n"


def test_several_values_without_m(capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose("freeze=encoder,decoder")
    line = capsys.readouterr().err
    assert line.startswith("error: freeze=encoder,decoder: a sweep over these values needs -m; ")
    assert "'freeze=[encoder,decoder]'" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("Config group override must be a string"), "error: Config group override must be a string\n"),
        (PermissionError(13, "Permission denied", "/x/outputs"), "error: /x/outputs: can't be written (Permission de"),
        (OSError(28, "No space left on device"), "error: the run's folder: No space left on device; name another"),
    ],
)
def test_what_hydra_raises_before_the_task(capsys, error, told):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise error
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "'': an empty word, perhaps by an unset variable of the shell; leave it out"),
        ("model.r", "model.r: expected key=value"),
        (300 * "a", "aaa: expected key=value"),  # longer than the name of a file may be
        ("task = train", "task = train: is not KEY=VALUE, without spaces"),
        ("modèle=x", "modèle=x: is not KEY=VALUE, without spaces and with plain letters in its key"),
        ("=x", "Could not override ''. No match in the defaults list."),
        ("model@teacher=gtcrn", "Could not override 'model@teacher'. Did you mean to override model?"),
    ],
)
def test_words_that_are_no_override_are_told_in_one_line(capsys, typed, told):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose(typed)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and told in line and line.count("\n") == 1


def test_a_broken_file_is_told_in_one_line(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("r: 1\nr: 2\n")
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        compose(f"hydra.searchpath=[{tmp_path}]", "model=mine")
    line = capsys.readouterr().err
    assert "mine.yaml" in line and "found duplicate key r" in line and line.count("\n") == 1


def test_an_unknown_configuration_is_told_with_the_option_that_named_it(capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise MissingConfigException("Cannot find primary config", "confg", None)
    assert capsys.readouterr().err.startswith(
        "error: --config-name=confg: there is no such choice; did you mean config?"
    )
