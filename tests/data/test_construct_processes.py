"""Several processes construct the set that one process constructs."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from fastadv.data import load_constructed
from tests.data.sets import ALL
from tests.data.worker import every_set, go_on
from tests.processes import finish, go, start

WORKER = "tests.data.worker"
KINDS = [construct.__name__ for construct in ALL]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def done(tmp_path_factory: Any) -> Path:
    """What 1, 2 and 4 processes return and keep."""
    folder: Path = tmp_path_factory.mktemp("sets")
    every_set(folder)
    for world in (2, 4):
        go(WORKER, "every_set", folder, world)
    return folder


@pytest.fixture(scope="module")
def never(tmp_path_factory: Any) -> bytes:
    """The set of a construction that was never stopped."""
    folder: Path = tmp_path_factory.mktemp("never")
    go_on(folder)
    return (folder / "resumed-1-0").read_bytes()


def files(folder: Path) -> dict[str, Any]:
    """The shards as bytes, and the index without its date and the hash over it."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("shard-*")}
    index = json.loads((folder / "index.json").read_text())
    del index["card"]["date"], index["seal"]
    return found | {"index": index}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_set_of_several_processes_is_that_of_one(kind: str, world: int, done: Path) -> None:
    for where in ("set", "memory"):
        alone = (done / f"{kind}-1-0.{where}").read_bytes()
        for rank in range(world):
            assert (done / f"{kind}-{world}-{rank}.{where}").read_bytes() == alone
    kept = files(done / f"{kind}-{world}")
    assert len(kept) == 4
    assert kept == files(done / f"{kind}-1")


def check_resumed(folder: Path, world: int, never: bytes) -> None:
    """So many processes go on with `folder`/run, all to the set of a run that was never stopped."""
    assert [path.name for path in (folder / "run").iterdir()] == ["shard-00000.safetensors"]
    shutil.copytree(folder / "run", folder / f"run-{world}")
    first = folder / f"run-{world}" / "shard-00000.safetensors"
    then = first.stat().st_mtime_ns
    go_on(folder) if world == 1 else go(WORKER, "go_on", folder, world)
    assert first.stat().st_mtime_ns == then
    assert [path.read_bytes() for path in folder.glob(f"resumed-{world}-*")] == [never] * world
    assert len(load_constructed(folder / f"run-{world}")) == 60


@pytest.mark.slow
def test_a_stopped_process_ends_the_others_and_any_number_goes_on(tmp_path: Path, never: bytes) -> None:
    go(WORKER, "stopped", tmp_path, 2)
    assert "expected all 2 of this run to go on, lost one" in (tmp_path / "error.txt").read_text()
    for world in (1, 4):
        check_resumed(tmp_path, world, never)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_leaves_the_finished_shards(
    tmp_path: Path, never: bytes
) -> None:
    (code, _, said), (killed, *_) = finish(start(WORKER, "killed", tmp_path, 2))
    assert (code, killed) == (0, -signal.SIGKILL), said
    assert "expected all 2 of this run to go on, lost one" in (tmp_path / "error.txt").read_text()
    check_resumed(tmp_path, 1, never)


def test_what_is_wrong_in_one_process_is_said_in_all(tmp_path: Path) -> None:
    go(WORKER, "faults", tmp_path, 2)
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    for name in ("base", "model", "steps", "seed", "out_dir", "batch_size"):
        assert first[name] == second[name]
        assert "expected the same run in all 2, got process 1 with another" in first[name]
        assert f"another {name}" in first[name]
    for name, said in {
        "argument": "steps: expected",
        "storage": "dtype: expected one of",
        "pixel": "samples 21 to 24: expected",
    }.items():
        assert second[name].startswith(said)
        assert first[name] == f"process 1: {second[name]}"
    for name, said in {"file": "out_dir: expected a folder", "folder": str(tmp_path / "other")}.items():
        assert first[name].startswith(said)
        assert second[name] == f"process 0: {first[name]}"
    assert "share the work by themselves, got 0 and 2; leave them out" in first["rank"]
    assert "share the work by themselves, got 1 and 2; leave them out" in second["rank"]
