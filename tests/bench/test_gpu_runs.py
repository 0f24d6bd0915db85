"""`make gpu` records what fails, goes on, goes on where it stopped, and says where its rows come from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench.session
from bench.session import Case, Skip, run_stage
from runs import ends, session

ROOT = Path(__file__).resolve().parents[2]


def case(name, *rows, raises=None, needs=0.0):
    def run():
        yield from rows
        if raises is not None:
            raise raises

    return Case(name, run, needs)


def test_what_fails_or_does_not_fit_is_told_and_the_next_case_runs(monkeypatch):
    cases = [
        case("fails", {"provider": "a"}, raises=ValueError("three\nlines\nlong")),
        case("skips", raises=Skip("no peer")),
        case("long", needs=100.0),
        case("known", raises=ValueError("again")),
        case("runs", {"provider": "b"}, needs=1.0),
    ]
    monkeypatch.setattr(bench.session, "cases_of", lambda name, session: cases)
    quick_session, rows = session(seconds=50.0), []
    quick_session.tiny = False
    assert run_stage("ops", quick_session, rows.append, {("ops", "known")})
    assert {row["case"]: (row["status"], row.get("why")) for row in rows if "status" in row} == {
        "fails": ("failed", "ValueError: three"),
        "skips": ("skipped", "no peer"),
        "long": ("skipped", "50 s of the stage's time left, 100 needed"),
        "runs": ("done", None),
    }
    assert [row["provider"] for row in rows if "provider" in row] == ["a", "b"]
    del rows[:]
    monkeypatch.setattr(quick_session, "dead", lambda: True)  # a lost GPU ends the process
    assert not run_stage("ops", quick_session, rows.append)
    assert ends(rows) == {"fails": "failed"}


MISSING = {
    "safetensors", "torchvision", "sklearn", "matplotlib", "PIL", "typer", "rich", "pytest", "hypothesis",
    "filelock", "scipy", "torchattacks", "foolbox",
}  # fmt: skip
BARE = """
import sys, time
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {missing} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
from bench.session import Session
from bench.session import run_stage
session = Session(torch.device("cpu"), True, 0.0, time.monotonic() + 60)
for stage, only in (
    ("abs", "bank"), ("attacks", "PGD MLP"), ("correctness", "pytest"), ("ops", "linf_step"),
    ("loop", "PGD-40 MLP 784-256-10, 1024"),
):
    rows = []
    run_stage(stage, session, rows.append, set(), only)
    assert not [row for row in rows if row.get("status") == "failed" or "error" in row], rows
    assert len(rows) > 1 or stage == "correctness", rows
assert not {missing} & sys.modules.keys()
print("ran")
"""


@pytest.mark.slow
def test_torch_numpy_and_triton_are_enough():
    code = BARE.format(missing=MISSING)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.rstrip().endswith("ran"), run.stdout[-2000:] + run.stderr[-2000:]
