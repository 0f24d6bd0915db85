"""Presets: the settings of the papers, pinned."""

import pytest

import fastadv as fa
from fastadv.errors import InputError
from fastadv.models.zoo import find
from fastadv.train import Cyclic, OneCycle
from fastadv.train.presets import PRESETS, find_preset
from fastadv.train.recipes import RECIPES
from fastadv.train.schedules import find_schedule

# epochs, batch size, optimizer, rate, weight decay, norm decay, momentum of BatchNorm, average, recipe
SETTINGS = {
    "wong2020": (15, 128, "sgd", 0.2, 5e-4, True, None, None, "fast"),
    "rice2020": (200, 128, "sgd", 0.1, 5e-4, True, None, None, "pgd"),
    "fastat": (100, 128, "sgd", 0.1, 5e-4, True, None, 0.9995, "pgd"),
    "fastat_n_fgsm": (100, 128, "sgd", 0.1, 5e-4, True, None, 0.9995, "fast"),
    "gowal2020": (400, 1024, "nesterov", 0.4, 5e-4, False, 0.01, 0.995, "trades"),
    "wang2023": (400, 512, "nesterov", 0.2, 5e-4, False, 0.01, 0.995, "trades"),
    "pang2022": (400, 512, "nesterov", 0.2, 5e-4, False, 0.01, 0.995, "score"),
    "debenedetti2022": (20, 512, "adamw", 5e-5, 0.5, False, None, None, "trades"),
}
ARGUMENTS = {
    "wong2020": {"step_size": 10 / 255}, "rice2020": {"steps": 10, "step_size": 2 / 255},
    "fastat": {"steps": 10, "step_size": 2 / 255, "label_smoothing": 0.4},
    "fastat_n_fgsm": {"method": "n-fgsm", "label_smoothing": 0.4},
    "gowal2020": {
        "steps": 10, "step_size": 2 / 255, "beta": 6.0, "label_smoothing": 0.1, "start": "uniform"},
    "wang2023": {
        "steps": 10, "step_size": 2 / 255, "beta": 5.0, "label_smoothing": 0.1, "start": "uniform"},
    "pang2022": {"steps": 10, "step_size": 2 / 255, "beta": 4.0, "start": "uniform"},
    "debenedetti2022": {"steps": 10, "beta": 6.0},
}  # fmt: skip
PUBLISHED = {
    "wong2020": "Wong2020Fast", "rice2020": "cifar10/Linf/Rice2020Overfitting",
    "gowal2020": "Gowal2020Uncovering_28_10_extra", "pang2022": "cifar10/Pang2022Robustness_WRN28_10",
}  # fmt: skip
FIGURES = {"fastat": (82.4, 50.49), "fastat_n_fgsm": (78.6, 47.77), "wang2023": (91.12, 63.35),
           "debenedetti2022": (90.06, 56.14)}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_settings_are_those_of_the_paper(name):
    preset, moving = find_preset(name), find_preset(name).optimization
    assert SETTINGS[name] == (
        preset.epochs, preset.batch_size, preset.optimizer, preset.learning_rate, moving.weight_decay,
        moving.norm_decay, moving.batch_norm_momentum, moving.ema, preset.recipe,
    )  # fmt: skip
    assert preset.arguments == ARGUMENTS[name]
    assert (moving.momentum, repr(preset.threat), preset.data) == (0.9, repr(fa.Linf(8 / 255)), "cifar10")
    if name in PUBLISHED:
        entry = find(PUBLISHED[name])
        assert (preset.clean, preset.robust) == (entry.clean, entry.robust)
        assert (preset.model, {**preset.options, "normalize": None}) == (
            entry.net.create, {**entry.net.options, "normalize": None}
        )  # fmt: skip
    else:
        assert (preset.clean, preset.robust) == FIGURES[name]


def test_schedules_are_those_of_the_paper():
    schedules = {name: PRESETS[name].optimization for name in PRESETS}
    assert find_schedule(schedules["wong2020"].schedule) == Cyclic(0.5, 0.0)
    assert schedules["rice2020"].schedule == "piecewise"
    assert schedules["fastat"].schedule == OneCycle(0.3, (0.85, 0.95))
    assert schedules["wang2023"].schedule == OneCycle(0.025, (0.85, 0.95))
    assert {name for name, each in schedules.items() if each.schedule_by == "epoch"} == {
        "fastat", "fastat_n_fgsm", "gowal2020", "wang2023", "pang2022"
    }  # fmt: skip
    assert [PRESETS[name].generated for name in ("gowal2020", "wang2023", "rice2020")] == [0.7, 0.7, None]
    cyclic = Cyclic(0.5, 0.0)
    assert [cyclic(done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("name", PRESETS)
def test_fit_takes_what_a_preset_says(name):
    preset = PRESETS[name]
    given = preset.training()
    assert repr(given["recipe"]) == repr(RECIPES[preset.recipe](threat=preset.threat, **ARGUMENTS[name]))
    assert len(given["augment"]) == len(preset.augment)
    assert given["optimization"] == preset.optimization
    assert given["learning_rate"] == preset.learning_rate


def test_a_preset_of_another_name_is_refused():
    with pytest.raises(InputError, match="preset: expected one of wong2020"):
        find_preset("nobody")
