"""How figures are written."""

import math

import pytest
import torch

import fastadv as fa
from fastadv.text import ends, percent, radius_text, threat_text


def test_shares() -> None:
    given = 0.5, 0.99996, 0.999996, 0.0004, 1.0, 0.0, 1e-9, None, math.nan
    told = ["50.0%", "99.996%", "99.9996%", "0.04%", "100.0%", "0.0%", "0.0%", "-", "-"]
    assert [percent(value) for value in given] == told
    assert percent(0.5, 0) == "50%"


def test_the_ends_of_an_interval_have_a_tenth_where_they_are_close() -> None:
    assert ends(0.233, 0.478) == "23 to 48"
    assert ends(0.4902, 0.5098) == "49.0 to 51.0"


@pytest.mark.parametrize(
    ("threat", "told"),
    [
        (fa.Linf(8 / 255), "8/255"), (fa.Linf(0.1), "0.1"), (fa.Linf(0.2), "0.2"), (fa.Linf(0), "0"),
        (fa.Linf(256 / 255), "1.00392"), (fa.L2(1 / 255), "0.00392157"), (fa.L2(0.5), "0.5"),
    ],
)  # fmt: skip
def test_a_radius_is_written_in_levels_where_leaderboards_do(threat: fa.Threat, told: str) -> None:
    assert radius_text(threat) == told
    assert threat_text(threat) == f"{threat.symbol} {told}"


def test_threats_without_one_radius() -> None:
    assert threat_text(None) == "not known"
    assert threat_text(fa.L2(math.inf)) == "L2, any radius"
    assert threat_text(fa.L2(torch.tensor([1.0, math.inf]))) == "L2, a radius for each sample"
