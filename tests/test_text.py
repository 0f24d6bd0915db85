"""How figures are written."""

import math

import pytest
import torch

import fastadv as fa
from fastadv.text import ends, in_markdown, percent, radius_text, threat_text


def test_shares() -> None:
    shares = 0.5, 0.9999, 0.99996, 0.999996, 0.0004, 2e-5, 1.0, 0.0, 1e-9, None, math.nan
    texts = ["50.0%", "99.99%", "99.996%", "99.9996%", "0.04%", "0.002%", "100.0%", "0.0%", "0.0%", "-", "-"]
    assert [percent(value) for value in shares] == texts
    assert percent(0.5, 0) == "50%"


def test_the_ends_of_an_interval_have_a_tenth_where_they_are_close() -> None:
    assert (ends(0.233, 0.478), ends(0.4902, 0.5098)) == ("23 to 48", "49.0 to 51.0")


@pytest.mark.parametrize(
    ("threat", "text"),
    [
        (fa.Linf(8 / 255), "8/255"), (fa.Linf(0.1), "0.1"), (fa.Linf(0.2), "0.2"), (fa.Linf(0), "0"),
        (fa.Linf(256 / 255), "1.00392"), (fa.L2(1 / 255), "0.00392157"), (fa.L2(0.5), "0.5"),
        (fa.Linf(50 / 255), "50/255"), (fa.Linf(0.031), "0.031"), (fa.Linf(0.0314), "0.0314"),
        (fa.Linf(0.0157), "0.0157"), (fa.Linf(0.3), "0.3"), (fa.L2(128 / 255), "0.501961"), (fa.L2(1), "1"),
    ],
)  # fmt: skip
def test_a_radius_is_written_in_levels_where_leaderboards_do(threat: fa.Threat, text: str) -> None:
    assert radius_text(threat) == text
    assert threat_text(threat) == f"{threat.symbol} {text}"


def test_threats_without_one_radius() -> None:
    assert threat_text(None) == "not known"
    assert threat_text(fa.L2(math.inf)) == "L2, any radius"
    assert threat_text(fa.L2(torch.tensor([1.0, math.inf]))) == "L2, a radius for each sample"


def test_a_markdown_table_keeps_its_lines() -> None:
    """A cell may hold a break or a bar; columns after the names stand to the right."""
    cells = [["name", "kind", "median,\nall"], ["a|b", "c", "1"]]
    assert in_markdown(cells, names=2).splitlines() == [
        "| name | kind | median, all |",
        "| --- | --- | ---: |",
        r"| a\|b | c | 1 |",
    ]
    assert in_markdown(cells).splitlines()[1] == "| --- | ---: | ---: |"
