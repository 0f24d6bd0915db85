"""The pipeline by chains of nets: their order, a budget of seconds, and weights brought from elsewhere."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from fastadv.errors import InputError
from fastadv.files import load_tensors
from papers import study as shared
from papers.command import main as run
from papers.ilyas2019 import figures, plan
from papers.ilyas2019.__main__ import parser
from papers.tests.ilyas import MINI, study, timeless


def main(arguments):
    return run(parser(), arguments)


FIRST, SECOND = ("standard", "D_rand", "D_det"), ("adversarial", "D_R", "D_NR")
CHAINED = replace(MINI, near=False, chains=(FIRST, SECOND))
WORK = [
    "nets: standard", "sets: D_rand, D_det", "train: D_rand, D_det", "evaluate: standard, D_rand, D_det",
    "galleries: D_rand, D_det",
    "nets: adversarial", "sets: D_R, D_NR", "train: D_R, D_NR", "evaluate: adversarial, D_R, D_NR",
    "galleries: D_R, D_NR",
    "controls", "transfer",
]  # fmt: skip


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())
        return folder, study(folder, CHAINED)


@pytest.mark.slow
def test_one_chain_is_finished_before_the_next(whole):
    folder, result = whole
    measured = result["measured"]
    assert list(measured["seconds"]) == WORK
    with pytest.raises(InputError, match=r"stages: expected some of nets.* got none"):
        study(folder, CHAINED, stages=[])
    assert set(measured["evaluate"]["nets"]) == {*FIRST, *SECOND}
    assert set(measured["train"]) == {"D_rand", "D_det", "D_R", "D_NR"}
    assert len(measured["nets"]["adversarial"]["losses"]) == MINI.epochs
    assert measured["train"]["D_R"]["epochs"] == 2  # as many steps on 40 images as on 60
    assert "left" not in measured
    assert len(measured["galleries"]["figures"]) == 4
    kept, _ = load_tensors(folder / "images" / "D_R.safetensors")
    assert len(kept["x"]) == len(kept["source"]) == 40  # all that the inverted sets have here
    assert not torch.equal(kept["x"], kept["source"])


@pytest.mark.slow
def test_a_spent_budget_leaves_what_the_same_command_then_does(whole, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=partial(next, count()), perf_counter=time.perf_counter)
    monkeypatch.setattr(shared, "time", clock)  # a second each time that it is read
    part = study(tmp_path, CHAINED, budget=6)  # as many calls of `watch`
    left = part["measured"]["left"]
    assert 0 < len(left) < len(WORK)
    assert left == WORK[-len(left) :]
    assert f"left: {left[0]}" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["measured"]["left"] == left
    (path := tmp_path / "results.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, CHAINED, watch=Mock(side_effect=KeyboardInterrupt))
    kept = json.loads(path.read_text())["measured"]
    assert (kept["left"], {*kept["seconds"]}) == (WORK[1:], {*WORK[:2]})  # also of what Ctrl-C stopped
    rest = study(tmp_path, CHAINED)
    assert "left" not in rest["measured"]
    assert timeless(rest["measured"]) == timeless(whole[1]["measured"])


@pytest.mark.slow
def test_sets_are_made_again_from_weights_in_parts(whole, tmp_path):
    parts = sorted((whole[0] / "weights").iterdir())
    assert [path.name for path in parts] == [f"{n}-00001-of-00001.safetensors" for n in plan.SOURCES[::-1]]
    assert main(["merge", str(whole[0] / "weights"), "--run-dir", str(tmp_path / "nets")]) == 0
    again = study(tmp_path, CHAINED, stages=["nets", "sets"])["measured"]
    assert again["sets"] == whole[1]["measured"]["sets"]
    assert again["nets"] == {}
    other = shutil.copytree(tmp_path / "nets", tmp_path / "b" / "nets").parent
    changes = {"epochs": 2, "batch_size": 7, "train_radius": 0.3, "seed": 1}
    for (key, value), told in zip(changes.items(), ("epochs", "batch_size", "recipe", "seed"), strict=True):
        with pytest.raises(InputError, match=f"another {told}.* there, "):
            study(other, replace(CHAINED, **{key: value}), stages=["nets"])


@pytest.mark.slow
def test_a_finished_stage_is_read_and_not_made_again_and_another_seed_is_refused(whole, tmp_path):
    def times():
        return {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*.safetensors"))}

    copy = Path(shutil.copytree(whole[0], tmp_path / "copy"))
    before, known = times(), json.loads((copy / "results.json").read_text())["measured"]
    again = study(copy, replace(CHAINED, chains=(SECOND, FIRST)), stages=["evaluate", "train"])["measured"]
    assert times() == before
    assert timeless(again) == timeless(known)
    grown = {work.partition(":")[0] for work, took in again["seconds"].items()
             if took > known["seconds"].get(work, 0)}  # fmt: skip
    assert grown == {"evaluate", "train"}
    page = (copy / "report.md").read_text()
    for text in ("| D_det |", "43.7%", "paper: VGG-16", "features", "seed 0", "nets.png"):
        assert text in page
    for other, says in ((replace(CHAINED, seed=1), r"seed \(0 there, 1 here\)"),
                        (replace(CHAINED, scale="cpu"), r"scale \(tiny there, cpu here\)")):  # fmt: skip
        with pytest.raises(InputError, match=f"another {says}"):
            study(copy, other, stages=["sets"])
