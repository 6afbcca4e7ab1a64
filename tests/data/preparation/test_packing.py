import tarfile

import pytest
import soundfile
import torch

from gtcrn.data.manifest import open_manifest
from gtcrn.data.mixing import Recipe
from gtcrn.data.preparation.files import content, sha256
from gtcrn.data.preparation.jobs import run_job
from gtcrn.data.preparation.output import OutputFolder
from gtcrn.data.preparation.packing import Pack
from gtcrn.data.sources import MixSource, PairSource
from gtcrn.data.speech import SpeechData
from gtcrn.data.vctk_demand import VctkDemand


def items(source, split, cache):
    data = SpeechData(
        source, sample_rate=16000, segment_seconds=1.0, batch_size=1, num_workers=0, seed=3, cache_dir=cache
    )
    data.setup((split,))
    dataset = data.dataset(split)
    return [dataset[epoch, index] for epoch in range(2) for index in range(len(dataset))]


def assert_same(ones, others):
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others):
        for key in ("noisy", "clean"):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
        assert one["snr"] == other["snr"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_pairs_are_the_same(prepare, recordings, tmp_path, split):
    folder = recordings / "vctk_demand_mini"
    prepare(Pack(0.2, False), folder, tmp_path / "packed")
    assert len(list((tmp_path / "packed").glob("*.tar"))) > 2

    def source(root):
        return PairSource(VctkDemand(root, ["28spk"], [], ["p287_002", "p287_005"]))

    assert_same(items(source(folder), split, tmp_path / "1"), items(source(tmp_path / "packed"), split, tmp_path / "2"))


def test_mixtures_are_the_same(prepare, recordings, corpus, tmp_path):
    mini = recordings / "dns_mini"
    noise = tmp_path / "noise"
    for number, depth in enumerate(("", "sub", "another/sub", "sub")):
        (noise / depth).mkdir(parents=True, exist_ok=True)
        wave, rate = soundfile.read(mini / "noise" / "noise_fileid_0.wav", start=40000 * number, frames=40000)
        soundfile.write(noise / depth / f"n{number}.wav", wave, rate)
    for name, folder in (("speech", corpus), ("noise", noise), ("rir", mini / "rir")):
        prepare(Pack(0.1, False), folder, tmp_path / "packed" / name)

    def source(speech, noise, rir):
        return MixSource(str(speech), str(noise), str(rir), Recipe(reverb=0.5), "folder", 0.3, fixed_items=4)

    plain, packed = (
        source(corpus, noise, mini / "rir"),
        source(*(tmp_path / "packed" / p for p in ("speech", "noise", "rir"))),
    )
    for split in ("train", "test"):
        assert_same(items(plain, split, tmp_path / "1"), items(packed, split, tmp_path / "2"))


def test_the_archives_are_plain_tar(prepare, corpus, tmp_path):
    long_name = f"{'folder' * 12}/{'name' * 20}.wav"
    (corpus / long_name).parent.mkdir()
    (corpus / "b.wav").rename(corpus / long_name)
    prepare(Pack(0.15, True), corpus, tmp_path / "out")
    found = {}
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        assert shard.stat().st_size <= 0.15e6 + 2 * tarfile.RECORDSIZE
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
                found[member.name] = archive.extractfile(member).read()
    files = open_manifest(tmp_path / "out", "input", None)
    assert list(found) == files.column("name").tolist()
    assert found == {name: (corpus / name).read_bytes() for name in found} and len(found) == 5 and long_name in found
    for name, checksum, file in zip(found, files.column("sha256"), files):
        assert checksum == sha256(corpus / name) == sha256(file.path)


def test_a_packed_corpus_is_packed_anew(prepare, contents, corpus, tmp_path):
    prepare(Pack(0.1, False), corpus, tmp_path / "small")
    prepare(Pack(1, False), tmp_path / "small", tmp_path / "repacked")
    prepare(Pack(1, False), corpus, tmp_path / "packed")
    for name in ("shard-000000.tar", "shards.arrow"):
        assert contents(tmp_path / "repacked")[name] == contents(tmp_path / "packed")[name]


def test_a_missing_member_is_named_and_the_others_are_packed(corpus, tmp_path):
    known = open_manifest(corpus, "input", tmp_path / "cache")
    (corpus / "reader one" / "p1_02.wav").unlink()
    step, output = Pack(1, False), OutputFolder(tmp_path / "out")
    with output.locked():
        (bad,) = run_job(step, step.work_items(known), output, workers=1).bad
    assert str(bad) == f"{corpus}/reader one/p1_02.wav: not readable: No such file or directory"
    files = open_manifest(tmp_path / "out", "input", None)
    assert len(files) == 4
    for name, file in zip(files.column("name"), files):
        assert content(file.path) == (corpus / name).read_bytes()
