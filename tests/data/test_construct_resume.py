"""A construction that is killed, shared between processes, or resumed on damaged or foreign files."""

import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from fastadv.data import load_constructed, verify_constructed
from fastadv.errors import CorruptFileError
from tests.processes import program, succeed

from .sets import random_target, toy_base, toy_model

MODULE = "tests.data.test_construct_resume"
OPTIONS = {"steps": 5, "shard_size": 8, "batch_size": 5}


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    random_target(toy_model(), toy_base(40), out_dir=folder, **OPTIONS)
    return folder


@pytest.fixture
def done(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")  # as in the process that is killed
def test_a_kill_at_any_moment_loses_at_most_one_shard(tmp_path):
    """Five shards and the index are renamed into place; the process is killed before or after a rename."""
    moments = [(turn, "before") for turn in range(6)] + [(2, "after"), (5, "after")]
    told = [f"{turn}-{when}" for turn, when in moments]
    succeed(program(tmp_path, MODULE, str(tmp_path), *told))
    whole = random_target(toy_model(), toy_base(40), out_dir=tmp_path / "whole", **OPTIONS)
    for turn, when in moments:
        folder, there = tmp_path / f"{turn}-{when}", turn + (when == "after")
        assert len(shards(folder)) == min(there, 5)
        assert len(list(folder.glob(".*.part"))) == (when == "before")
        assert (folder / "index.json").exists() == (there == 6)
        if there < 6:
            with pytest.raises(CorruptFileError, match="did not finish"):
                load_constructed(folder)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}
        assert torch.equal(random_target(toy_model(), toy_base(40), out_dir=folder, **OPTIONS).x, whole.x)
        assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
        for ours, theirs in zip(shards(folder), shards(tmp_path / "whole"), strict=True):
            assert ours.read_bytes() == theirs.read_bytes()
        assert len(list(folder.iterdir())) == 6
        assert load_constructed(folder).card["measured"] == whole.card["measured"]


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.slow
def test_damaged_shard_is_named_and_rebuilt_once_deleted(done):
    bad, calls = done / "shard-00001.safetensors", []
    build = partial(random_target, toy_model(), toy_base(40), out_dir=done, **OPTIONS)
    whole = bad.read_bytes()
    for damage in (_flip_a_bit, lambda path: save_file({"images": torch.zeros(8, 1, 4, 4)}, path)):
        damage(bad)
        for call in (partial(load_constructed, done), build):
            with pytest.raises(CorruptFileError, match=r"shard-00001\.safetensors.*delete it and run"):
                call()
    bad.unlink()
    build(progress=lambda *at: calls.append(at))
    assert calls == [(8, 40), (13, 40), (16, 40), (24, 40), (32, 40), (40, 40)]
    assert bad.read_bytes() == whole


@pytest.mark.parametrize(
    "damaged",
    [lambda text: "{", lambda text: "[]", lambda text: text.replace('"kept_label": 0.', '"kept_label": 1.')],
)
def test_damaged_index(done, damaged):
    text = (done / "index.json").read_text()
    (done / "index.json").write_text(damaged(text))
    assert (done / "index.json").read_text() != text
    for call in (load_constructed, verify_constructed):
        with pytest.raises(CorruptFileError, match=r"index\.json"):
            call(done)
    (done / "index.json").unlink()
    with pytest.raises(CorruptFileError, match=r"index\.json: expected the index"):
        verify_constructed(done)


if __name__ == "__main__":
    from tests.kills import kill_at_each_moment  # a test imports this file without the root on its path

    torch.set_num_threads(1)
    random_target(toy_model(), toy_base(40), **OPTIONS)  # slow the first time, before the process multiplies
    kill_at_each_moment(lambda folder: random_target(toy_model(), toy_base(40), out_dir=folder, **OPTIONS))
