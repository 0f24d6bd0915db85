"""Presets: the figures and networks of the papers, and what `fit` takes of them."""

import pytest

from fastadv.errors import InputError
from fastadv.models.zoo import find
from fastadv.train.presets import PRESETS, find_preset
from fastadv.train.schedules import find_schedule

PUBLISHED = {
    "wong2020": "Wong2020Fast", "rice2020": "cifar10/Linf/Rice2020Overfitting",
    "gowal2020": "Gowal2020Uncovering_28_10_extra", "pang2022": "cifar10/Pang2022Robustness_WRN28_10",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_and_networks_are_those_of_robustbench(name):
    preset, entry = PRESETS[name], find(PUBLISHED[name])
    assert (preset.clean, preset.robust) == (entry.clean, entry.robust)
    assert preset.model == entry.net.create
    assert preset.options | {"normalize": None} == entry.net.options | {"normalize": None}


def test_the_rate_of_cyclic_half_rises_and_falls_to_nothing():
    cyclic = find_schedule(PRESETS["wong2020"].optimization.schedule)
    assert [cyclic(done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_a_preset_of_another_name_is_refused():
    with pytest.raises(InputError, match="preset: expected one of wong2020"):
        find_preset("nobody")
