"""The notebooks: stored clean, defining nothing, and run from beginning to end on a small set of results."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from gtcrn.data import audio
from gtcrn.models import light_v3
from gtcrn.models.pretrained import CORE_PREFIX, RECORD

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "notebooks"
ROOMS = ("gtcrn.plots.", "gtcrn.profiling.", "gtcrn.reports.")
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RATE = 16000
WIDTHS, RS, FILES = (0.5, 1), (8, 12), ("anna_1", "anna_2", "ben_1")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def parsed(cell: dict) -> ast.Module:
    return ast.parse("".join(line for line in cell["source"] if not line.startswith("%")))


def test_all_are_there():
    names = ["1_compare_runs", "2_ablation", "3_listen_and_look", "4_breakdown", "5_streaming_and_latency"]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_stored_without_what_running_them_leaves(path):
    assert set(read(path)["metadata"]) == {"kernelspec", "language_info"}
    assert read(path)["metadata"]["language_info"] == {"name": "python"}, "no version of whoever ran it"
    for cell in read(path)["cells"]:
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_define_nothing_and_import_from_the_package(path):
    nodes = [node for cell in code_cells(path) for node in ast.walk(parsed(cell))]
    assert not [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "gtcrn.reports.notebook" in imported
    assert all(
        name.startswith(("gtcrn.plots.", "gtcrn.profiling.", "gtcrn.reports.")) or name in ("pandas", "IPython.display")
        for name in imported
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_has_the_parameters_alone(path):
    parameters, *others = (parsed(cell) for cell in code_cells(path))
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in parameters.body}
    assert values["RUNS"] is None
    used = {node.id for cell in others for node in ast.walk(cell) if isinstance(node, ast.Name)}
    assert used >= values.keys()


def speech_like(seed: int) -> np.ndarray:
    """Harmonics that come and go, one second."""
    time = np.arange(RATE) / RATE
    pitch = 110 + 30 * seed
    voiced = sum(np.sin(2 * np.pi * pitch * order * time) / order for order in range(1, 20))
    return (0.1 * voiced * (np.sin(2 * np.pi * 3 * time) > 0)).astype(np.float32)


def write_audio(folder: Path, knobs: dict) -> None:
    torch.manual_seed(0)
    enhancer = light_v3.build(**knobs).eval()
    weights = {CORE_PREFIX + key: value for key, value in enhancer.core.state_dict().items()}
    record = {"model": {"build": "gtcrn.models.light_v3.build", "knobs": knobs}}
    (folder / "checkpoints").mkdir()
    torch.save({RECORD: record, "state_dict": weights}, folder / "checkpoints/best.ckpt")
    for number, name in enumerate(FILES):
        clean = speech_like(number)
        noisy = clean + 0.02 * np.random.default_rng(number).standard_normal(len(clean), dtype=np.float32)
        with torch.no_grad():
            enhanced = enhancer(torch.from_numpy(noisy)[None])[0][0].numpy()
        for role, wave in {"noisy": noisy, "clean": clean, "enhanced": enhanced}.items():
            audio.write(folder / "test" / role / f"{name}.wav", wave, RATE, subtype="FLOAT")


def write_training(folder: Path, width_mult: float, r: int) -> None:
    """A finished training; if it is one of the wide ones, with random weights and audio that they enhanced."""
    knobs = {"width_mult": width_mult, "r": r}
    typed = [f"model.{knob}={value}" for knob, value in knobs.items()]
    config = {"task": "train", "run_dir": "${hydra:runtime.output_dir}", "seed": 1, "monitor": "val/pesq_wb"}
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config | {"model": knobs}))
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(typed))

    if width_mult == 1:
        write_audio(folder, knobs)
    rows = []
    for number, name in enumerate(FILES):
        noisy_pesq = 1.5 + 0.1 * number
        enhanced_pesq = noisy_pesq + 0.2 * width_mult + r / 100 - 0.1 * number
        rows.append({"name": name, "snr": 5.0 * number, "noisy_pesq_wb": noisy_pesq, "enhanced_pesq_wb": enhanced_pesq})
    scores = pd.DataFrame(rows).assign(failures="")
    (folder / "test").mkdir(exist_ok=True)
    scores.to_csv(folder / "test/scores.csv", index=False)
    means = scores.drop(columns=["name", "snr", "failures"]).mean().to_dict()
    cost = {
        "parameters_trainable": round(5000 * width_mult) + r,
        "mmacs_exact": 10 * width_mult + r,
        "latency_ms": 32.0,
    }
    curve = [f"{epoch},{10 * epoch},{5 - epoch},{1.2 + epoch / 10}" for epoch in range(4)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/pesq_wb", *curve, ""]))
    summary = {"cost": cost, "steps": 30, "validation": {"val/pesq_wb": 1.5}, "test": means, "seconds": 9.0}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the notebooks, and beside them outputs/ with a sweep of which one run failed."""
    place = tmp_path_factory.mktemp("repository")
    shutil.copytree(FOLDER, place / "notebooks")
    for width_mult in WIDTHS:
        for r in RS:
            write_training(place / f"outputs/sweep/{width_mult},{r}", width_mult, r)
    failed = place / "outputs/sweep/failed"
    shutil.copytree(place / f"outputs/sweep/{WIDTHS[0]},{RS[0]}/.hydra", failed / ".hydra")
    (failed / "error.txt").write_text("model.r=-1: must lie between 1 and 256\n")
    return place


def executed(path: Path, place: Path, monkeypatch) -> list[dict]:
    """The outputs of all cells of a notebook that was run in `place`."""
    nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: pip install -e '.[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[dev]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[dev]'")
    monkeypatch.delenv("GTCRN_RUNS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(path, 4)
    client = nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    )
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        if error.ename != "UserError":
            raise
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def of_type(outputs: list[dict], kind: str) -> list[str]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


SHOWN = {  # pictures, players, and words that stand somewhere
    "1_compare_runs": (2, 0, ("4 finished, 1 failed", "must lie between", "width_mult", "Nothing to draw")),
    "2_ablation": (3, 0, ("model.width_mult", "12.0", "Cells: mean")),
    "3_listen_and_look": (3, 4, ("ben_1", "r=12", "speech lost, %", "noise removed, dB")),
    "4_breakdown": (3, 0, ("anna", "ben", "10 dB", "width_mult=0.5 r=8", "95 % intervals")),
    "5_streaming_and_latency": (4, 2, ("waiting for a whole hop", "largest difference", "comes out 16 ms late")),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run_beside_the_outputs(path, place, monkeypatch):
    outputs = executed(path, place / "notebooks", monkeypatch)
    problems = [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not problems
    pictures, players, words = SHOWN[path.stem]
    html, texts = of_type(outputs, "text/html"), of_type(outputs, "text/markdown")
    assert len(of_type(outputs, "image/png")) == pictures
    assert sum("<audio" in page for page in html) == players
    everything = "\n".join([*html, *texts])
    assert not [word for word in words if word not in everything]


def test_without_runs_a_line_says_what_to_type(tmp_path, monkeypatch):
    (error,) = executed(FOLDER / "2_ablation.ipynb", tmp_path, monkeypatch)
    assert error["ename"] == "UserError"
    assert error["traceback"] == [error["evalue"]], "one line and no traceback"
    assert (
        error["evalue"].startswith("outputs: no such folder") and "python run.py -m model=light_v3" in error["evalue"]
    )
