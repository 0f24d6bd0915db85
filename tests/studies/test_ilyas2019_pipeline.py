"""The pipeline of Ilyas et al. 2019 as a run: whole, in stages, killed, continued, refused."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastadv as fa
from fastadv.errors import InputError
from fastadv.studies.ilyas2019 import figures, plan, report
from fastadv.studies.ilyas2019.maker import file_name
from tests.processes import finish, serve
from tests.studies.ilyas import MINI, killed, study, timeless

Whole = tuple[Path, dict[str, Any], list[str]]


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
    assert tuple(measured) == plan.STAGES
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
def test_each_set_and_net_is_what_its_name_says(whole):
    folder, _, _ = whole
    made = {name: fa.data.load_constructed(folder / "sets" / file_name(name)) for name in MINI.sets}
    source = {name: one.card["config"] for name, one in made.items()}
    weights = {name: card["model"]["hash"] for name, card in source.items()}
    assert weights["D_R"] == weights["D_R_noise"] != weights["D_NR"]
    assert {weights[name] for name in MINI.sets[2:]} == {weights["D_NR"]}
    starts = ["images", "noise", "images", "noise", None, None, None, None]
    assert [source[name].get("start") for name in MINI.sets] == starts
    for name, card in source.items():
        assert (card["steps"], card["seed"]) == (2, MINI.seed)
        # within the paper's radius by the same share of it
        radius = 0.5 if " at " in name else MINI.push_radius if name in MINI.pushed else None
        step = MINI.invert_step_size if radius is None else MINI.push_step_size * radius / MINI.push_radius
        assert card["step_size"] == pytest.approx(step)
        assert card["threat"]["radius"] == (radius or "inf")
        assert len(made[name]) == (40 if radius is None else 60)
    nets = {path.name for path in (folder / "nets").iterdir()}
    assert {*map(file_name, MINI.nets), "independent", "early", "early_labels"} <= nets
    assert "small_CNN_narrow_on_D_det" in nets


@pytest.mark.slow
def test_a_finished_stage_is_read_and_not_made_again(copy):
    before, known = times(copy), json.loads((copy / "results.json").read_text())["measured"]
    again = study(copy, stages=["evaluate", "train"])
    assert times(copy) == before
    assert timeless(again["measured"]) == timeless(known)
    for stage in ("evaluate", "train"):
        assert again["measured"][stage]["seconds"] > known[stage]["seconds"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_results(whole, tmp_path):
    said = tmp_path / "said"
    said.mkdir()
    tmp_path = tmp_path / "run"
    [(code, _, err)] = finish(serve(killed, said, 1, tmp_path))
    assert code == -signal.SIGKILL, err
    kept = times(tmp_path)
    assert (tmp_path / "nets" / "adversarial" / "model.safetensors") in kept
    assert not (tmp_path / "sets" / "D_det").exists()
    again = study(tmp_path, stages=["nets", "sets", "train"])
    assert kept.items() <= times(tmp_path).items()
    wanted = timeless(whole[1]["measured"])
    assert timeless(again["measured"]) == {stage: wanted[stage] for stage in ("nets", "sets", "train")}
    assert "Accuracy" not in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.rglob("*.part"))


def test_a_stage_without_what_it_takes_is_refused_before_any_work(tmp_path):
    for asked, gone in (
        (["sets"], "nets"),
        (["train", "nets"], "sets"),
        (["controls", "nets", "sets"], "train"),
        (["evaluate", "nets", "sets"], "train"),
        (["galleries", "nets"], "sets"),
        (["transfer", "nets"], "sets"),
    ):
        with pytest.raises(InputError, match=f"finished stage {gone}, which the stage {asked[0]} takes"):
            study(tmp_path, stages=asked)
        assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_another_seed_or_scale_is_refused_and_named(copy):
    for other, says in (
        (replace(MINI, seed=1), r"another seed \(0 there, 1 here\)"),
        (replace(MINI, scale="cpu"), r"another scale \(tiny there, cpu here\)"),
        (replace(MINI, push_steps=3), r"another push_steps"),
    ):
        with pytest.raises(InputError, match=says):
            study(copy, other, stages=["sets"])
