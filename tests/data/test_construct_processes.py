"""Several processes construct the set that one process constructs."""

import json

import pytest

from fastadv.data import load_constructed
from tests.data.sets import ALL
from tests.data.worker import every_set, go_on
from tests.processes import Refused, go, kill, resume

WORKER = "tests.data.worker"
KINDS = [construct.__name__ for construct in ALL]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What one process and four, with no shard for the last, return and keep."""
    folder = tmp_path_factory.mktemp("sets")
    every_set(folder)
    go(WORKER, "every_set", folder, 4)
    return folder


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    folder = tmp_path_factory.mktemp("never")
    go_on(folder)
    return (folder / "resumed-1-0").read_bytes()


def files(folder):
    """The shards as bytes, and the index without its date and the hash over it."""
    found = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
    index = json.loads((folder / "index.json").read_text())
    del index["card"]["date"], index["seal"]
    return found | {"index": index}


@pytest.mark.parametrize("kind", KINDS)
def test_the_set_of_several_processes_is_that_of_one(kind, done):
    for where in ("set", "memory"):
        alone = (done / f"{kind}-1-0.{where}").read_bytes()
        for rank in range(4):
            assert (done / f"{kind}-4-{rank}.{where}").read_bytes() == alone
    kept = files(done / f"{kind}-4")
    assert len(kept) == 4
    assert kept == files(done / f"{kind}-1")


def test_a_killed_process_ends_the_others_and_any_number_goes_on(tmp_path, never):
    kill(WORKER, tmp_path)
    (first,) = (tmp_path / "run").iterdir()
    assert first.name == "shard-00000.safetensors"
    for world in (1, 4):
        assert resume(WORKER, tmp_path, world) == [never] * world
        kept = tmp_path / f"run-{world}"
        assert (kept / first.name).stat().st_mtime_ns == first.stat().st_mtime_ns
        assert len(load_constructed(kept)) == 60


def test_what_is_wrong_in_one_process_is_said_in_all(tmp_path):
    go(WORKER, "faults", tmp_path, 2)
    refused = Refused(tmp_path)
    for name in ("base", "out_dir"):
        refused.alike(name, name)
    refused.by(1, argument="steps: expected", pixel="samples 25 to 31: expected")
    refused.by(0, file="out_dir: expected a folder", folder=str(tmp_path / "other"))
