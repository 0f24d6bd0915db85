"""Several processes evaluate what one process evaluates."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastadv.files import load_tensors
from fastadv.hashes import digest
from tests.evaluation.nets import timeless
from tests.evaluation.worker import KINDS, go_on, whole
from tests.processes import Refused, go, kill, resume

WORKER = "tests.evaluation.worker"
WORLD = 4  # of which two have nothing to do in the last turn
# slow: the first test starts the processes of all
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def done(tmp_path_factory: Any) -> Path:
    """What one process and WORLD return and keep."""
    folder: Path = tmp_path_factory.mktemp("whole")
    whole(folder)
    go(WORKER, "whole", folder, WORLD)
    return folder


@pytest.fixture(scope="module")
def never(tmp_path_factory: Any) -> bytes:
    folder: Path = tmp_path_factory.mktemp("never")
    go_on(folder)
    return (folder / "resumed-1-0").read_bytes()


def kept(folder: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.glob("part-*")):
        tensors, metadata = load_tensors(path)
        del tensors["seconds"]
        found[path.name] = digest(tensors), timeless(json.loads(metadata["about"])), metadata["of"]
    return found


def test_the_table_and_the_curves_of_several_processes_are_those_of_one(done: Path) -> None:
    for rank in range(WORLD):
        for what in (*KINDS, "curves"):
            ours, alone = (done / f"{what}-{name}" for name in (f"{WORLD}-{rank}", "1-0"))
            assert ours.read_bytes() == alone.read_bytes(), what
        assert (done / f"seconds-{WORLD}-{rank}").read_text() == (done / f"seconds-{WORLD}-0").read_text()
        told = (done / f"events-{WORLD}-{rank}").read_text()
        assert told == ("[]" if rank else (done / "events-1-0").read_text())


def test_the_folder_of_several_processes_is_that_of_one(done: Path) -> None:
    for kind in KINDS:
        ours, alone = kept(done / str(WORLD) / kind), kept(done / "1" / kind)
        assert len(alone) == 6 * (7 if kind == "classes" else 2)
        assert ours == alone
        ours, alone = (done / name / kind / "evaluation.json" for name in (str(WORLD), "1"))
        assert ours.read_bytes() == alone.read_bytes()


def test_a_killed_process_ends_the_others_and_leaves_what_was_finished(tmp_path: Path, never: bytes) -> None:
    kill(WORKER, tmp_path)
    # two batches of each were done, but for one attack on one
    assert len(kept(tmp_path / "run")) == 7
    assert resume(WORKER, tmp_path, 3) == [never] * 3
    assert len(kept(tmp_path / "run-3")) == 12


def test_what_is_wrong_in_one_process_is_said_in_all(tmp_path: Path) -> None:
    go(WORKER, "faults", tmp_path, 2)
    refused = Refused(tmp_path)
    for name in ("data", "model", "attacks", "batch_size", "keep_samples", "audit", "radii", "resume"):
        refused.alike(name, name)
    refused.alike("curve", "batch_size")
    refused.by(1, argument="limit: expected", attack="attacks['odd']: expected an AttackResult")
    new = "run_dir: expected a new folder"
    # the label is of sample 17, in the fifth batch, which is the first process's
    refused.by(0, folder="run_dir: expected a folder", done=new, label="dataset: expected labels from 0 to 2")
    first, second = refused.said
    assert first["nan"] == second["nan"]
    assert "expected finite logits" in first["nan"]
