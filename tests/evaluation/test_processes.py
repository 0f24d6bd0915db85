"""Several processes evaluate what one process evaluates."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from fastadv.runs.files import digest, load_tensors
from tests.evaluation.worker import go_on, timeless, whole
from tests.processes import finish, go, start

WORKER = "tests.evaluation.worker"
# slow: the first test starts the processes of all
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def done(tmp_path_factory: Any) -> Path:
    """What 1, 2 and 4 processes return and keep."""
    folder: Path = tmp_path_factory.mktemp("whole")
    whole(folder)
    for world in (2, 4):
        go(WORKER, "whole", folder, world)
    return folder


@pytest.fixture(scope="module")
def never(tmp_path_factory: Any) -> bytes:
    """The table of an evaluation that was never stopped."""
    folder: Path = tmp_path_factory.mktemp("never")
    go_on(folder)
    return (folder / "resumed-1-0").read_bytes()


def kept(folder: Path) -> dict[str, Any]:
    """The files of an evaluation, without times."""
    found = {}
    for path in sorted(folder.glob("part-*")):
        tensors, metadata = load_tensors(path)
        del tensors["seconds"]
        found[path.name] = digest(tensors), timeless(json.loads(metadata["told"])), metadata["of"]
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_the_table_and_the_curves_of_several_processes_are_those_of_one(world: int, done: Path) -> None:
    for rank in range(world):
        for what in ("table", "curves", "auto"):
            ours, alone = (done / f"{what}-{name}" for name in (f"{world}-{rank}", "1-0"))
            assert ours.read_bytes() == alone.read_bytes(), what
        assert (done / f"seconds-{world}-{rank}").read_text() == (done / f"seconds-{world}-0").read_text()


def test_the_table_holds_what_could_differ(done: Path) -> None:
    table, metadata = load_tensors(done / "table-1-0")
    told = json.loads(metadata["table"])["attacks"]
    assert table["failed"].tolist() == [True] * 5 + [False] * 18
    for name, row in told.items():
        assert 0 < row["success_rate"] <= 1, name
        assert 2 <= len(table[f"{name}.examples.ids"]) <= 3, name
    assert 0 < told["pgd"]["success_rate"] < 1
    assert {*told["staged"]["components"]} == {"pgd", "square"}
    assert told["pgd"]["robust_accuracy"] != told["targeted"]["robust_accuracy"]
    radii = json.loads((done / "curves-1-0").read_text())
    assert all(len(set(accuracy)) > 2 for _, accuracy in radii)


@pytest.mark.parametrize("world", [2, 4])
def test_the_folder_of_several_processes_is_that_of_one(world: int, done: Path) -> None:
    ours, alone = kept(done / str(world)), kept(done / "1")
    assert len(alone) == 6 * 7
    assert ours == alone
    ours, alone = (done / name / "evaluation.json" for name in (str(world), "1"))
    assert ours.read_bytes() == alone.read_bytes()


def check_resumed(folder: Path, world: int, never: bytes) -> None:
    """So many processes go on with `folder`/run, all to the table of a run that was never stopped."""
    shutil.copytree(folder / "run", folder / f"run-{world}")
    go_on(folder) if world == 1 else go(WORKER, "go_on", folder, world)
    tables = [path.read_bytes() for path in folder.glob(f"resumed-{world}-*")]
    assert tables == [never] * world
    assert len(kept(folder / f"run-{world}")) == 12


def test_an_error_in_one_ends_all_and_any_number_goes_on(tmp_path: Path, never: bytes) -> None:
    go(WORKER, "stopped", tmp_path, 2)
    assert (tmp_path / "stopped-1").read_text() == "Stop: in the middle"
    assert (tmp_path / "stopped-0").read_text() == "RuntimeError: process 1: in the middle"
    # two batches of each were done, but for one attack on one
    assert len(kept(tmp_path / "run")) == 7
    for world in (1, 4):
        check_resumed(tmp_path, world, never)


def test_a_killed_process_ends_the_others_and_leaves_what_was_finished(tmp_path: Path, never: bytes) -> None:
    (code, _, said), (killed, *_) = finish(start(WORKER, "killed", tmp_path, 2))
    assert (code, killed) == (0, -signal.SIGKILL), said
    assert "expected all 2 of this run to go on, lost one" in (tmp_path / "error.txt").read_text()
    assert len(kept(tmp_path / "run")) == 7
    check_resumed(tmp_path, 1, never)


def test_what_is_wrong_in_one_process_is_said_in_all(tmp_path: Path) -> None:
    go(WORKER, "faults", tmp_path, 2)
    first, second = (json.loads((tmp_path / f"said-{rank}.json").read_text()) for rank in (0, 1))
    alike = "data", "model", "attacks", "batch_size", "keep_samples", "radii", "resume"
    for name in (*alike, "auto", "auto curve"):
        assert first[name] == second[name]
        assert "expected the same run in all 2, got process 1 with another" in first[name]
        assert f"another {'batch_size' if name.startswith('auto') else name}" in first[name]
    for name, said in {
        "argument": "limit: expected",
        "attack": "attacks['odd']: expected an AttackResult",
    }.items():
        assert second[name].startswith(said)
        assert first[name] == f"process 1: {second[name]}"
    for name, said in {
        "folder": "run_dir: expected a folder",
        "done": "run_dir: expected a new folder",
        "auto done": "run_dir: expected a new folder",
    }.items():
        assert first[name].startswith(said)
        assert second[name] == f"process 0: {first[name]}"
    # of the sample 17, in the fifth batch, which is the first process's
    assert first["label"].startswith("dataset: expected labels from 0 to 2")
    assert second["label"] == f"process 0: {first['label']}"
    assert first["nan"] == second["nan"]
    assert "expected finite logits" in first["nan"]
