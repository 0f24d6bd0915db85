"""The pipeline of Ilyas et al. 2019 as a run: whole, in stages, killed, continued, refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fastadv.errors import InputError
from papers.ilyas2019 import figures, plan, report
from papers.tests.ilyas import MINI, study, timeless


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Galleries take longer than all the rest here."""
    monkeypatch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all stages: its folder, its result, and what it said that it does."""
    folder, seen = tmp_path_factory.mktemp("whole"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "gallery", lambda name, base, made, path: path.touch())
        result = study(folder, watch=lambda what, done, total: seen.append(what))
    return folder, result, seen


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the whole run's folder."""
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_all_stages_leave_results_report_and_figures(whole):
    folder, result, seen = whole
    measured = result["measured"]
    assert tuple(measured) == (*plan.STAGES, "seconds")
    assert list(measured["evaluate"]["nets"]) == list(MINI.nets)
    for net in measured["evaluate"]["nets"].values():
        assert list(net["robust"]) == ["PGD L2 0.2", "PGD L2 0.4"]
        assert net["tested"] == 12
        for name, share in net["robust"].items():
            low, high = net["intervals"][name]
            assert 0 <= low <= share <= high <= 1
    assert json.loads((folder / "results.json").read_text())["measured"] == measured
    page = (folder / "report.md").read_text()
    for text in (
        "| D_R_noise |",
        "| D_det |",
        "| D_det at L2 0.5 |",
        "43.7%",
        "paper: VGG-16",
        "features",
        "seed 0",
        "nets.png",
    ):
        assert text in page
    for file in report.figures(result).values():
        assert (folder / file).exists()
    assert list(dict.fromkeys(seen)) == [
        *(f"training {name}" for name in plan.SOURCES),
        *(f"building {name}" for name in MINI.sets),
        *(f"training {name}" for name in MINI.sets),
        *(f"attacking {name}" for name in MINI.nets),
        *(f"training {name}" for name in ("independent", "early", "early labels")),
        "attacking standard for transfer",
        *(f"training {other.title} on {what}" for other in MINI.others for what in ("D_det", "D")),
    ]


@pytest.mark.slow
def test_a_finished_stage_is_read_and_not_made_again(copy):
    before, known = times(copy), json.loads((copy / "results.json").read_text())["measured"]
    again = study(copy, replace(MINI, chains=(MINI.nets[:3], MINI.nets[3:])), stages=["evaluate", "train"])
    assert times(copy) == before
    assert timeless(again["measured"]) == timeless(known)
    grown = {work.partition(":")[0] for work, took in again["measured"]["seconds"].items()
             if took > known["seconds"].get(work, 0)}  # fmt: skip
    assert grown == {"evaluate", "train"}


@pytest.mark.slow
def test_another_seed_or_scale_is_refused_and_named(copy):
    for other, says in (
        (replace(MINI, seed=1), r"another seed \(0 there, 1 here\)"),
        (replace(MINI, scale="cpu"), r"another scale \(tiny there, cpu here\)"),
        (replace(MINI, push_steps=3), r"another push_steps"),
    ):
        with pytest.raises(InputError, match=says):
            study(copy, other, stages=["sets"])
