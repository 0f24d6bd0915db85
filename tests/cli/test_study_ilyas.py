"""`fastadv study ilyas`: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Done

Command = Callable[..., Done]


def test_features_prints_a_line_for_each_net(fastadv: Command, folder: Path) -> None:
    line = "study ilyas features --tiny --steps 1 --run-dir run"
    done = fastadv(line)
    assert done.code == 0, done
    for text in ("standard", "adversarial", "non-robust", "rho >= 0.1", "L2 0.2", "features.png"):
        assert text in done.out
    assert (folder / "run" / "features.png").stat().st_size > 0
    told = json.loads(fastadv(f"{line} --radius 0.3 --rho 1/5 --json").out)
    assert told["kind"] == "study ilyas features"
    assert told["config"]["radius"] == 0.3
    assert told["measured"]["nets"]["standard"]["thresholds"] == {"rho": 0.2, "gamma": 0.0}
    assert told == json.loads((folder / "run" / "results.json").read_text())


def test_theory_fails_where_a_claim_does_not_hold(fastadv: Command, folder: Path) -> None:
    done = fastadv("study ilyas theory --radii 1 --samples 40 --epochs 1 --steps 1 --run-dir run")
    assert done.code == 1
    for text in ("theorem 1", "theorem 2", "theorem 3", "holds", "FAILS", "ellipses.png"):
        assert text in done.out
    assert (folder / "run" / "theorems.png").stat().st_size > 0


def test_bad_arguments(fastadv: Command) -> None:
    for line, text in {
        "theory --radii 0,1": "radii: expected",
        "theory --radii=-1": "expected",
        "theory --radii a": "number",
        "features --size 9": "--size",
        "features --rho 0 --tiny": "rho: expected",
    }.items():
        done = fastadv(f"study ilyas {line}")
        assert done.code == 2, (line, done)
        assert text in done.err
