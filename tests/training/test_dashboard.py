"""W&B offline, whose files are read back, and W&B that can't be reached or goes away."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wandb
import yaml
from fixtures.commands import CONF, RUN, compose, run_command
from wandb.proto import wandb_internal_pb2 as proto
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from gtcrn.errors import UserError
from gtcrn.metrics import WavePair
from gtcrn.revision import revision
from gtcrn.training import dashboard
from gtcrn.training.dashboard import Dashboard

pytestmark = pytest.mark.slow

BLOCK = 32768


def records(file: Path) -> Iterator[proto.Record]:
    """Yield the records of a .wandb file: 7 bytes, then LevelDB's log format.

    That is blocks of pieces (checksum, length, kind), of which the kinds 1 and 4 end a record.
    """
    data, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := BLOCK - position % BLOCK) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = proto.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def items(updates) -> dict:
    return {update.key or "/".join(update.nested_key): json.loads(update.value_json) for update in updates}


class Logged:
    """The records and files of an offline run."""

    def __init__(self, folder: Path):
        (file,) = folder.glob("*.wandb")
        self.files = folder / "files"
        self.config, self.summary, self.history, self.metrics, self.artifacts = {}, {}, [], {}, []
        for record in records(file):
            if record.HasField("run"):
                self.run = record.run
                self.config |= items(record.run.config.update)
            elif record.HasField("config"):
                self.config |= items(record.config.update)
            elif record.HasField("summary"):
                self.summary |= items(record.summary.update)
            elif record.HasField("history"):
                self.history.append(items(record.history.item))
            elif record.HasField("metric"):
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric
            elif record.HasField("artifact"):
                self.artifacts.append(record.artifact)

    def stored(self, key: str) -> dict[str, Path]:
        """Return the files of a table's artifact, by their paths in it."""
        (artifact,) = [artifact for artifact in self.artifacts if f"-{key.replace('/', '')}-" in artifact.name]
        return {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}

    def table(self, key: str) -> pd.DataFrame:
        """Return the table as the artifact has it; the copy among the files has no sounds."""
        assert any(f"{key}/path" in row for row in self.history)
        table = json.loads(self.stored(key)[f"{key}.table.json"].read_text())
        return pd.DataFrame(table["data"], columns=table["columns"])


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Leave W&B without an account and a home, so that it reads its settings again."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    yield monkeypatch
    wandb.teardown()


@pytest.fixture(scope="module")
def training(recordings, tmp_path_factory) -> Path:
    """Train two epochs of two steps, and return the folder of the run."""
    place = tmp_path_factory.mktemp("training")
    overrides = (
        "data=vctk_demand",
        f"data.root={recordings / 'vctk_demand_mini'}",
        "data.validation_files=[p287_005,p287_006]",
        "data.validation_speakers=[]",
        "data.test=validation",
        "data.segment_seconds=1",
        "data.batch_size=2",
        "data.num_workers=0",
        "data.cache_dir=cache",
        "model.width_mult=0.5",
        "metrics.validation=[si_sdr]",
        "metrics.test=[si_sdr,stoi]",
        "metrics.workers=1",
        "monitor=val/si_sdr",
        "callbacks.clips.count=0",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "trainer.max_epochs=2",
        "logger.watch=all",
        "logger.watch_every=1",
        "logger.examples=1",
    )
    result = run_command(place, *overrides)
    assert result.returncode == 0, result.stderr
    assert "W&B" not in result.stdout + result.stderr
    (folder,) = place.glob("outputs/*/*_train_light_v3_sisdr_mag")
    return folder


@pytest.fixture(scope="module")
def logged(training) -> Logged:
    (folder,) = training.glob("wandb/offline-run-*")
    return Logged(folder)


def test_run_is_found_by_name_group_tags_and_config(training, logged):
    run = logged.run
    assert (run.display_name, run.run_group, run.job_type, run.project) == (
        training.name,
        training.name,
        "train",
        "gtcrn",
    )
    assert set(run.tags) == {"train", "light_v3", "causal", "sisdr_mag", "vctk_demand", "supervised"}
    assert logged.config["model"]["width_mult"] == 0.5 and logged.config["seed"] == 1
    assert logged.config["cost"]["parameters_trainable"] == 5024
    assert logged.config["git"] == revision() and logged.config["host"]


def test_curves_have_one_axis_and_the_summary_the_best_values(training, logged):
    metrics = pd.read_csv(training / "metrics.csv")
    for name, best in (("val/si_sdr", "max"), ("val/loss", "min"), ("val/sisdr", "min")):
        metric = logged.metrics[name]
        assert metric.step_metric == "trainer/global_step"
        assert [field.name for field, _ in metric.summary.ListFields()] == [best]
        values = metrics[name].dropna()
        assert len(values) == 2 and logged.summary[name] == {best: pytest.approx(getattr(values, best)(), rel=1e-5)}
    assert logged.summary["best/val/si_sdr"] == pytest.approx(metrics["val/si_sdr"].max())
    assert logged.metrics["*"].step_metric == "trainer/global_step"
    trained = {row["trainer/global_step"]: row["train/loss"] for row in logged.history if "train/loss" in row}
    assert trained == pytest.approx(metrics.set_index("step")["train/loss"].dropna().to_dict(), rel=1e-5)
    assert all("trainer/global_step" in row for row in logged.history)


def test_summary_is_that_of_summary_json(training, logged):
    summary = json.loads((training / "summary.json").read_text())
    assert summary["test"] and summary["best"]
    for section in ("cost", "best", "test"):
        for name, value in summary[section].items():
            assert logged.summary[f"{section}/{name}"] == pytest.approx(value)
    assert logged.summary["steps"] == summary["steps"] == 4


def test_every_utterance_has_a_row_and_the_worst_is_heard_and_seen(training, logged):
    table = logged.table("test/utterances")
    scores = pd.read_csv(training / "test" / "scores.csv")
    assert sorted(table["name"]) == sorted(scores["name"])
    worst = scores.loc[scores["enhanced_si_sdr"].idxmin()]
    assert table["name"][0] == worst["name"]
    for column in ("snr", "noisy_si_sdr", "enhanced_si_sdr", "noisy_stoi", "enhanced_stoi"):
        assert table[column][0] == pytest.approx(worst[column], rel=1e-4)
    media = table[["noisy", "enhanced", "clean", "spectrogram"]]
    assert media.loc[1].isna().all()
    stored = logged.stored("test/utterances")
    for cell in media.loc[0]:
        assert stored[cell["path"]].stat().st_size > 10_000
        assert training in stored[cell["path"]].parents  # not in the user's home


def test_validation_by_snr_is_a_curve_each(training, logged):
    snrs = pd.read_csv(training / "test" / "scores.csv")["snr"]  # the same files
    curves = {key for row in logged.history for key in row if key.startswith("val_by_snr/")}
    assert len(curves) == len(snrs) and all(key.startswith("val_by_snr/si_sdr at ") for key in curves)
    for curve in curves:
        assert [row["trainer/global_step"] for row in logged.history if curve in row] == [1, 3]


def test_means_by_snr_are_a_table_and_a_chart(training, logged):
    table = logged.table("test_by_snr/means")
    scores = pd.read_csv(training / "test" / "scores.csv").sort_values("snr")
    assert [float(label.removesuffix(" dB")) for label in table["input SNR"]] == pytest.approx(
        list(scores["snr"]), 1e-3
    )
    assert list(table["enhanced_si_sdr"]) == pytest.approx(list(scores["enhanced_si_sdr"]), rel=1e-4)
    assert list(logged.table("test_by_snr/enhanced_stoi_table").columns) == ["input SNR", "enhanced_stoi"]
    assert logged.config["_wandb/visualize/test_by_snr/enhanced_stoi"]["panel_type"] == "Vega2"


def test_best_weights_are_an_artifact_that_says_what_they_are(training, logged):
    (artifact,) = [artifact for artifact in logged.artifacts if artifact.type == "model"]
    (entry,) = artifact.manifest.contents
    assert Path(entry.local_path) == training / "checkpoints" / "best.ckpt"
    assert artifact.name == f"model-{logged.run.run_id}" and "best" in artifact.aliases
    metadata = json.loads(artifact.metadata)
    summary = json.loads((training / "summary.json").read_text())
    assert metadata["test"] == pytest.approx(summary["test"]) and metadata["best"] == pytest.approx(summary["best"])
    assert metadata["git"] == revision() and len(metadata["config_sha256"]) == 64
    # the same version to W&B, so that a run that builds on it is drawn behind it
    used = dashboard._model(training / "checkpoints" / "best.ckpt")
    assert (used.name, used.digest) == (artifact.name, artifact.digest)
    assert metadata["data"] and all(line in (training / "run.log").read_text() for line in metadata["data"])


def test_histograms_of_gradients_and_parameters_if_wished(logged):
    names = {key.rsplit("/", 1)[0] for row in logged.history for key in row if key.endswith("/bins")}
    layers = {name.partition("/")[2] for name in names if name.startswith("parameters/")}
    assert layers == {name.partition("/")[2] for name in names if name.startswith("gradients/")} and len(layers) > 20


def session(place: Path, **options) -> Logged:
    known = set(place.glob("wandb/*run-*"))
    board = Dashboard(str(place), "gtcrn", **options)
    board.finish(failed=False)
    wandb.teardown()  # as at a process's end: until then W&B may still write
    (folder,) = set(place.glob("wandb/*run-*")) - known
    assert board.experiment.offline
    return Logged(folder)


def test_runs_of_a_sweep_and_continuations_fall_together(quiet, tmp_path):
    place = tmp_path / "14-00-00_sweep" / "model.r=8"
    place.mkdir(parents=True)
    first = session(place, sweep=str(place.parent))
    assert (first.run.run_group, first.run.display_name) == ("14-00-00_sweep", "model.r=8")
    # by itself, outside of the sweep
    second = session(place, sweep="elsewhere/15-00-00_sweep", resumed_from="last.ckpt")
    assert (second.run.run_group, second.run.display_name) == ("14-00-00_sweep", "model.r=8 (resumed)")
    assert second.run.run_id != first.run.run_id == second.config["resumed_from"]


def test_an_online_run_goes_on_as_itself(quiet, tmp_path):
    """It does so even after a session without a network in between."""
    begun = []
    quiet.setattr(dashboard, "_check_server", lambda: None)
    real = wandb.init

    def init(mode, **arguments):
        begun.append((mode, arguments["id"], arguments["resume"]))
        run = real(mode="offline", **arguments)
        if mode == "online":
            quiet.setattr(type(run), "offline", False)
        return run

    quiet.setattr(wandb, "init", init)
    ids = []
    for mode, resumed_from in (("online", None), ("offline", "last.ckpt"), ("online", "last.ckpt")):
        quiet.setattr(wandb.Run, "offline", mode == "offline")
        board = Dashboard(str(tmp_path), "gtcrn", mode, resumed_from=resumed_from)
        ids.append(board.experiment.id)
        board.finish(failed=False)
    assert begun == [("online", None, None), ("offline", None, None), ("online", ids[0], "allow")]
    assert ids[2] == ids[0] != ids[1]


@pytest.fixture
def silent_server():
    """Return the address of a server that accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("trouble", ["refused", "silent", "no login"])
def test_without_network_or_login_the_run_is_logged_offline(quiet, caplog, tmp_path, silent_server, trouble):
    server = {"refused": "http://127.0.0.1:9", "silent": silent_server, "no login": "http://127.0.0.1:9"}[trouble]
    quiet.setenv("WANDB_BASE_URL", server)
    quiet.setattr(dashboard, "_ANSWER", 1)
    if trouble != "no login":
        quiet.setenv("WANDB_API_KEY", 40 * "a")
    written = session(tmp_path, mode="online")
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    reason = "no login (wandb login makes one)" if trouble == "no login" else f"{server} does not answer"
    assert line == (f"W&B: {reason}; this run is logged offline, and sent later by: wandb sync {written.files.parent}")


def test_a_broken_dashboard_is_told_once_and_stops_nothing(quiet, caplog, tmp_path):
    board = Dashboard(str(tmp_path), "gtcrn")

    def broken(*arguments, **options):
        raise ConnectionResetError("Connection lost")

    quiet.setattr(board.experiment, "log", broken)
    wave = np.zeros(16000, np.float32)
    board.log_metrics({"train/loss": 1.0}, 0)
    board.log_metrics({"train/loss": 1.0}, 1)
    board.log_audio("clips/a", [wave], sample_rate=[16000])
    board.log_scores(pd.DataFrame({"name": ["a"], "enhanced_stoi": [0.5]}), [WavePair("a", wave, wave)], 16000)
    board.finish(failed=False)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert line == "W&B: Connection lost; it is sent no more of this run, which goes on"
    assert session(tmp_path).run.run_id != board.experiment.id  # the next job of the process


def test_a_server_that_dies_does_not_hold_up_the_end(quiet, caplog, tmp_path):
    board = Dashboard(str(tmp_path), "gtcrn", upload_seconds=1)
    log, never = board.experiment.log, threading.Event()
    quiet.setattr(board.experiment, "log", lambda logged: never.wait() if "test/utterances" in logged else log(logged))
    wave = np.zeros(16000, np.float32)
    board.log_scores(pd.DataFrame({"name": ["a"], "enhanced_stoi": [0.5]}), [WavePair("a", wave, wave)], 16000)
    board.log_summary({"steps": 4})
    board.finish(failed=False)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("gtcrn")]
    assert line == "W&B: log_scores failed: no answer within 1 s; the run goes on"
    wandb.teardown()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert Logged(folder).summary["steps"] == 4


@pytest.mark.parametrize("switched_off", ["disabled", "second process"])
def test_nothing_is_written_where_it_is_switched_off(quiet, caplog, tmp_path, switched_off):
    if switched_off == "second process":
        quiet.setattr(dashboard.rank_zero_only, "rank", 1)
    board = Dashboard(str(tmp_path), "gtcrn", "disabled" if switched_off == "disabled" else "offline")
    wave = np.zeros(16000, np.float32)
    board.log_metrics({"val/loss": 1.0}, 0)
    board.log_scores(pd.DataFrame({"name": ["a"], "enhanced_stoi": [0.5]}), [WavePair("a", wave, wave)], 16000)
    board.log_summary({"steps": 1})
    board.finish(failed=False)
    assert not list(tmp_path.iterdir())
    assert not [record for record in caplog.records if record.name.startswith("gtcrn")]


@pytest.mark.parametrize("option", [{"mode": "onlin"}, {"watch": "weights"}])
def test_mistakes_name_the_key(tmp_path, option):
    ((key, value),) = option.items()
    with pytest.raises(UserError, match=f"logger.{key}={value}: must be one of"):
        Dashboard(str(tmp_path), "gtcrn", **option)


def test_examples_begin_with_worst_median_and_best():
    scores = pd.DataFrame({"enhanced_stoi": [0.5, 0.9, 0.1, np.nan, 0.7, 0.3]})
    assert dashboard._examples(scores, 3) == [3, 0, 1]  # where there is no score something is wrong
    assert dashboard._examples(scores, 0) == []
    assert sorted(dashboard._examples(scores, 12)) == [0, 1, 2, 3, 4, 5]


def test_wandb_sweep_gives_run_py_what_it_takes():
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    assert (RUN.parent / sweep["program"]).is_file() and sweep["command"][-1] == "${args_no_hyphens}"
    literal = [part for part in sweep["command"] if not part.startswith("${")]
    for end in (0, -1):
        chosen = {
            key: {"value": space["values"][end] if "values" in space else space[("min", "max")[end]]}
            for key, space in sweep["parameters"].items()
        }
        arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
        cfg = compose(*literal, *arguments)
        assert cfg.model.width_mult == chosen["model.width_mult"]["value"]
        assert cfg.training.ema_decay == chosen["training.ema_decay"]["value"]
        assert cfg.optimizer.lr == pytest.approx(chosen["optimizer.lr"]["value"])
        assert cfg.logger.mode == "online" and sweep["metric"]["name"] == f"best/{cfg.monitor}"


def test_nothing_of_wandb_is_imported_where_it_is_not_chosen():
    code = "import sys, gtcrn.tasks.train; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
