"""What a result is worth, which cases there are, and who is no worse than whom."""

import json
from math import inf, nan
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.parity.store import save, stored
from tests.parity.toy import Threshold, X, Y, line, row
from tests.parity.verdict import judge


def test_a_success_is_wrong_in_the_box_and_in_the_ball() -> None:
    x_adv = torch.tensor([[0.6, 0.1], [0.4, 0.1], [1.2, 0.1], [0.9, 0.9], [nan, 0.1]])
    assert judge(Threshold(), X, Y, x_adv, "l2").distances == [0.4, inf, inf, 0.0, inf]
    assert judge(Threshold(), X, Y, x_adv, "l2", 0.39).distances == [inf, inf, inf, 0.0, inf]
    assert judge(Threshold(), X, Y, x_adv, "l2", 0.4).distances == [0.4, inf, inf, 0.0, inf]


def test_of_a_class_for_each_pixel_those_that_x_adv_gets_wrong_are_successes() -> None:
    """The second image is out of the ball: its pixels are what they are without an attack."""
    model = nn.Conv2d(1, 2, 1).requires_grad_(False)
    model.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    model.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.tensor([[[[0.2, 0.4], [0.6, 0.8]]]] * 2)
    x_adv = x + torch.tensor([0.2, 0.3]).view(2, 1, 1, 1)
    y = torch.tensor([[[0, 0], [0, 1]]] * 2)
    right = judge(model, x, y, x_adv, "linf", 0.2).distances
    assert right == pytest.approx([inf, 0.2, 0.2, inf, inf, inf, 0.3, inf])
    x_adv[0, 0, 1, 0] = 0.45  # right there, and wrong at x
    assert judge(model, x, y, x_adv, "linf", 0.2).figures(0.2) == {"robust_accuracy": 0.75}


def test_rows_come_back_from_the_file_and_a_new_one_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row("b", inf, distances=[0.5, inf]), row("a", 0.5, 0.1)]
    save(rows, path)
    assert stored(path) == rows[::-1]
    save([*rows, row("b", 2.0)], path)
    assert stored(path) == [row("a", 0.5, 0.1), row("b", 2.0)]
    for text in path.read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)  # inf is no JSON


@pytest.mark.parametrize(
    ("ours", "theirs", "radius", "worse"),
    [
        (1.0, 1.0, inf, False), (1.01, 1.0, inf, False), (1.011, 1.0, inf, True), (inf, 1.0, inf, True),
        (inf, inf, inf, False), (0.31, 0.3, 0.1, False), (0.32, 0.3, 0.1, True), (0.2, 0.3, 0.1, False),
    ],
)  # fmt: skip
def test_worse_is_one_percent_farther_or_two_images_more(ours, theirs, radius, worse):
    assert line(row("fastadv", ours, radius), row("a", theirs, radius)).worse is worse
