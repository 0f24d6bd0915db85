"""Records: training stops by the clock, a folder is known by its settings, and what the p of a target is."""

from dataclasses import replace

import pytest
from scipy import stats

import fastadv as fa
from papers import command, record, study, training
from tests.refusals import refuses

SETS = [fa.data.load("digits", split, limit=200) for split in ("train", "test")]
TINY = replace(record.PLANS["tiny"][1], budget=5)
SHARES = [0.449, 0.45, 0.451]


@pytest.mark.slow
def test_a_record_takes_its_budget_once(tmp_path, monkeypatch):
    now, rates, real, cycle = [0.0], [], fa.evaluate, fa.train.OneCycle()

    def second(what, *told):  # a step takes one, a measurement of the curve a hundred
        now[-1] += what == "seconds of training"

    monkeypatch.setattr(record.time, "perf_counter", lambda: now[-1])
    monkeypatch.setattr(fa, "evaluate", lambda *a, **k: now.extend((a[0], now[-1] + 100)) or real(*a, **k))
    monkeypatch.setattr(fa.train, "OneCycle", lambda: lambda done: rates.append(done) or cycle(done))
    first = record.run(TINY, SETS, tmp_path, 30, second, study.CPU)["measured"]
    assert [(point["epochs"], point["seconds"]) for point in first["curve"]] == [(1, 2), (2, 4), (2.5, 5)]
    average, frozen, before, late = now[5], now[7], now[5](SETS[1].x), record.Clock(1, study.CPU, second, 0)
    assert (sorted(set(rates)), late.rate(0)) == ([0, 0.2, 0.4, 0.6, 0.8], cycle(1))  # they follow the clock
    fa.models.load_weights(average, tmp_path / "model.safetensors")
    assert (average(SETS[1].x).equal(before), frozen.options.precision) == (True, "fp32")
    monkeypatch.setattr(record, "train", None)
    more = record.run(TINY, SETS, tmp_path, 20, second, study.CPU)["measured"]
    assert (more["curve"], more["AutoAttack"]["images"]) == (first["curve"], 20)
    monkeypatch.setattr(record, "judged", None)
    assert record.run(TINY, SETS, tmp_path, 20, second, study.CPU)["measured"] == more
    refuses("4 there, 8 here", record.run, replace(TINY, width=8), SETS, tmp_path, 20, second, study.CPU)


@pytest.mark.parametrize(("budget", "steps", "target"), [(90, 0, 0.43), (240, 7, 0.475), (180, 7, 0.45)])
def test_runs_on_a_gpu_meet_a_target_by_a_t_test(budget, steps, target, monkeypatch, capsys):
    def run(s, sets, folder, *rest):
        assert (s.budget, s.steps, sets, folder.name) == (budget, steps, SETS, f"{budget}s-seed-{s.seed}")
        found = {"clean": 0.8, "robust": SHARES[s.seed - 1], "images": 200, "seconds": 9}
        known = {"curve": [{"seconds": 90.4, "epochs": 7}], "AutoAttack": found}
        known["trained on"] = {"gpu": "H100", "threads": 1, "torch": "2"}
        return {"config": {"seed": s.seed, "budget": budget, "train": SETS[0].describe()}, "measured": known}

    monkeypatch.setattr(record, "run", run)
    monkeypatch.setattr(study, "load_images", lambda name, split, data_dir: SETS[split == "test"])
    assert command.main(training.parser(), f"--scale gpu --budget {budget} --seed 1 --seeds 3".split()) == 0
    told = capsys.readouterr().out
    p = stats.ttest_1samp(SHARES, target, alternative="greater").pvalue
    says = f"45.00%; the target of {target:.1%} is {'' if budget == 90 else 'not '}met (p = {p:.2g})"
    assert (says in told) == ("target" in told) == (budget != 180)
