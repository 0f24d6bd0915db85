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


def files(folder):
    """The shards as bytes, and the index without its date and the hash over it."""
    found = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
    index = json.loads((folder / "index.json").read_text())
    del index["card"]["date"], index["seal"]
    return found | {"index": index}


def test_the_set_of_several_processes_is_that_of_one(tmp_path):
    """Of four, the last makes no shard."""
    every_set(tmp_path)
    go(WORKER, "every_set", tmp_path, 4)
    for kind in KINDS:
        for where in ("set", "memory"):
            alone = (tmp_path / f"{kind}-1-0.{where}").read_bytes()
            assert [(tmp_path / f"{kind}-4-{rank}.{where}").read_bytes() for rank in range(4)] == [alone] * 4
        kept = files(tmp_path / f"{kind}-4")
        assert len(kept) == 4
        assert kept == files(tmp_path / f"{kind}-1")


def test_a_killed_process_ends_the_others_and_any_number_goes_on(tmp_path):
    (tmp_path / "never").mkdir()
    go_on(tmp_path / "never")
    never = (tmp_path / "never" / "resumed-1-0").read_bytes()
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
