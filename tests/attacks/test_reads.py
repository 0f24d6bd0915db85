"""How often attacks wait for a GPU, on the recorder."""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest

import fastadv as fa
from fastadv.engine import capture
from tests import recorded

from .test_captured import SQUARE, Net, problem

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("captured", "asked_alone", "search_copy")]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return recorded.as_on_a_gpu(monkeypatch)


def reads(run: Callable[[], object]) -> int:
    with recorded.Reads() as counted, patch.object(capture, "has_modes", bool):
        run()
    return counted.count


def test_sixty_four_queries_read_four_values(captured: list[int]) -> None:
    model, (x, y) = Net(), problem()
    for norm, attack in SQUARE.items():
        # nobody is broken, so nobody leaves
        square = partial(attack, threat=type(attack.keywords["threat"])(1e-4))
        square(model, x, y)  # the first call captures
        none, some, more = (reads(partial(square, model, x, y, queries=count)) for count in (0, 64, 128))
        # and one holds the replayed losses against the verdict
        assert some - none <= 5, norm
        assert more - some <= 4, norm
    assert len(captured) == 3


@pytest.mark.parametrize("threat", [fa.Linf(0.3), fa.L2(1.0), fa.L1(6.0)])
def test_steps_of_fab_after_the_first_success_read_nothing(threat: fa.Threat, captured: list[int]) -> None:
    model, (x, y) = Net(), problem()
    fab = partial(fa.attacks.fab, threat=threat, targeted=True, classes=2)
    fab(model, x, y, steps=40)  # the first call meets the model, and captures
    few, many = (reads(partial(fab, model, x, y, steps=count)) for count in (40, 100))
    assert captured
    assert many - few <= 6


@pytest.mark.parametrize("threat", [fa.Moved(0.01, 0.01), fa.Patch((1, 1), "any")], ids=repr)
def test_steps_through_a_map_read_nothing(threat: fa.Threat, captured: list[int]) -> None:
    model, (x, y) = Net(), problem()
    pgd = partial(fa.attacks.pgd, threat=threat.with_radius(1e-5))  # nobody is broken
    pgd(model, x, y, steps=4)
    few, many = (reads(partial(pgd, model, x, y, steps=count)) for count in (20, 84))
    assert many - few <= 4  # after each sixteenth step
