"""Several processes certify what one process certifies, and refuse to draw differently."""

from pathlib import Path

import pytest
import torch

from fastadv.runs.files import load_tensors
from tests.certify.worker import whole
from tests.processes import Refused, go

WORKER = "tests.certify.worker"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    whole(tmp_path)
    go(WORKER, "keyed", tmp_path, 2)
    alone, _ = load_tensors(tmp_path / "certified--1")
    for rank in range(2):
        shared, _ = load_tensors(tmp_path / f"certified-{rank}")
        assert all(torch.equal(shared[name], alone[name]) for name in alone)
    kept = [sorted((tmp_path / f"run-{shared}").glob("part-*")) for shared in (False, True)]
    assert len(kept[0]) == 5
    for one, two in zip(*kept, strict=True):
        assert load_tensors(one)[0].keys() == load_tensors(two)[0].keys()


def test_other_seeds_are_refused(tmp_path: Path) -> None:
    go(WORKER, "other_seeds", tmp_path, 2)
    assert all("another seed" in said["seed"] for said in Refused(tmp_path).said)
