"""A .pt2 file streams what the PyTorch model streams, and says how it is fed."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
import soundfile
import torch

from gtcrn.errors import UserError
from gtcrn.export.graph import Graph
from gtcrn.export.metadata import Weights, describe
from gtcrn.export.writers.pt2 import write
from gtcrn.models import micro
from gtcrn.runtime.pt2 import Pt2Denoiser


@pytest.fixture(scope="module")
def enhancer():
    torch.manual_seed(0)
    return micro.build(channels=4, stacks=1, blocks=2).eval()


@pytest.fixture(scope="module", params=["spectrum", "wave"])
def program(request, enhancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "micro.pt2"
    graph = Graph(enhancer, request.param)
    write(graph, path, describe(graph, enhancer, Weights("a test", "MIT")).metadata())
    return path


@torch.inference_mode()
def test_streams_as_pytorch_does(program, enhancer, recordings):
    noisy = soundfile.read(recordings / "vctk_demand_mini" / "noisy" / "p287_001.wav", dtype="float32")[0][: 60 * 256]
    runner = Pt2Denoiser(program)
    assert (runner.sample_rate, runner.hop_length, runner.latency) == (16000, 256, 256)
    expected = enhancer(torch.from_numpy(noisy)[None], enhancer.initial_state(1))[0][0].numpy()
    blocks = np.split(noisy, [1, 256, 1000, 9000])
    for _ in range(2):
        streamed = np.concatenate([runner.process(block) for block in blocks])
        np.testing.assert_allclose(streamed, expected, atol=1e-5)
        runner.reset()


def test_tells_what_it_is_and_nothing_of_the_machine(program):
    extra = {"metadata.json": ""}
    torch.export.load(program, extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    assert metadata["licence"] == "MIT" and json.loads(metadata["states"])
    with zipfile.ZipFile(program) as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
    assert texts and not any(__file__.encode() in text or b"gtcrn/models" in text for text in texts)


class Opener:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (print, ("code in a program was run",))


def changed(program, path, **members):
    """The program with other members, by the end of their names; a function makes JSON anew."""
    with zipfile.ZipFile(program) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for ending, value in members.items():
        names = [name for name in contents if name.endswith(ending)] or [f"micro/{ending}"]
        if callable(value):
            table = json.loads(contents[names[0]])
            value(table)
            value = json.dumps(table)
        contents[names[0]] = value
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def node(table):
    return table["graph_module"]["graph"]["nodes"][0]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"sample_inputs/model.pt": pickled(((Opener(),), {}))}, "the pickle of its example holds code"),
        ({"models/model.json": lambda t: node(t).update(target="torch.os.system")}, "target: torch.os.system"),
        ({"models/model.json": lambda t: node(t).update(target="torch.ops.aten.from_file.default")}, "from_file"),
        ({"models/model.json": lambda t: t.update(guards_code=["print('code in a program was run')"])}, "guards_code"),
        ({"models/model.json": lambda t: node(t).update(name="x=print('code')")}, "name: x=print"),
        (
            {"models/model.json": lambda t: t["range_constraints"].update(s0={"min_val": 0, "max_val": 9})},
            "range_constraints",
        ),
        ({"models/model.json": lambda t: node(t).update(metadata={"source_fn_stack": "f,print"})}, "source_fn_stack"),
        (
            {"weights_config.json": lambda t: next(iter(t["config"].values())).update(use_pickle=True)},
            "use_pickle",
        ),
        ({"data/aotinductor/model/model.so": b"\x7fELF"}, "it holds data/aotinductor/model/model.so"),
        ({"models/other.json": b"{}"}, "it holds models/other.json"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_run_code_is_refused(tmp_path, program, members, said, capfd):
    evil = changed(program, tmp_path / "evil.pt2", **members)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        Pt2Denoiser(evil)
    assert "refused, because it may run code" in str(error.value) and "\n" not in str(error.value)
    assert "code in a program" not in capfd.readouterr().out


def test_one_flipped_bit_is_noticed(tmp_path, program):
    content = bytearray(program.read_bytes())
    content[content.index(b"weight_3") + 200] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(content)
    with pytest.raises(UserError, match="damaged, or no torch.export program"):
        Pt2Denoiser(tmp_path / "flipped.pt2")


def test_files_that_do_not_fit_are_named(tmp_path, program):
    with pytest.raises(UserError, match="nowhere.pt2: no such file"):
        Pt2Denoiser(tmp_path / "nowhere.pt2")
    bad = tmp_path / "bad.pt2"
    for content in (b"", b"no archive", program.read_bytes()[:20_000]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match="bad.pt2: damaged, or no torch.export program") as error:
            Pt2Denoiser(bad)
        assert "\n" not in str(error.value)
    identity = torch.export.export(torch.nn.Identity(), (torch.zeros(1),))
    for extra, match in ((None, "holds no metadata.json"), ({"metadata.json": "{}"}, "does not say how it is fed")):
        torch.export.save(identity, bad, extra_files=extra)
        with pytest.raises(UserError, match=f"bad.pt2: .*{match}"):
            Pt2Denoiser(bad)
