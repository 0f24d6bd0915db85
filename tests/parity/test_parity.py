"""What a result is worth, which cases there are, and who is no worse than whom."""

import json
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.parity.case import Case
from tests.parity.models import Quantized
from tests.parity.peers import _peer
from tests.parity.store import save, stored
from tests.parity.toy import Threshold, X, Y, line, row
from tests.parity.verdict import best, judge


def test_a_success_is_wrong_in_the_box_and_in_the_ball() -> None:
    x_adv = torch.tensor([[0.6, 0.1], [0.4, 0.1], [1.2, 0.1], [0.9, 0.9], [nan, 0.1]])
    assert judge(Threshold(), X, Y, x_adv, "l2").distances == [0.4, inf, inf, 0.0, inf]
    assert judge(Threshold(), X, Y, x_adv, "l2", 0.39).distances == [inf, inf, inf, 0.0, inf]
    assert judge(Threshold(), X, Y, x_adv, "l2", 0.4).distances == [0.4, inf, inf, 0.0, inf]


def test_figures_are_median_or_robust_accuracy() -> None:
    outcome = judge(
        Threshold(), X, Y, X + torch.tensor([[0.4, 0], [0.5, 0], [0, 0], [0, 0], [0.05, 0]]), "linf"
    )
    assert outcome.figures(inf) == {"median": 0.5, "success": 0.6}
    assert outcome.figures(1.0) == {"robust_accuracy": 0.4}


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


def case(radius: float, chance: bool) -> Case:
    return Case("toy", "l2", (), {}, {}, radius=radius, chance=chance)


def test_allowed_is_the_best_of_the_peers_and_a_margin() -> None:
    medians = [{"median": 2.0, "images": 25}, {"median": 1.0, "images": 25}, {"median": inf, "images": 25}]
    assert case(inf, False).allowed(medians) == pytest.approx(1.01)
    assert case(inf, True).allowed(medians) == pytest.approx(1.1)
    robust = [{"robust_accuracy": 0.4, "images": 25}, {"robust_accuracy": 0.2, "images": 25}]
    assert case(0.1, False).allowed(robust) == 0.2
    assert 0.24 <= case(0.1, True).allowed(robust) < 0.28


def test_a_peer_draws_from_generators_with_its_seed() -> None:
    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
        return torch.tensor([float(torch.rand(())), float(np.random.rand())])

    peer = _peer("toy", "toy", {}, "foolbox", call)
    first, again, other = (peer.run(Threshold(), X, Y, inf, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first != other).all()
    own = _peer("toy", "toy", {}, "foolbox", lambda *given, seed: torch.tensor(seed), seeded=True)
    assert [int(own.run(Threshold(), X, Y, inf, seed=seed)) for seed in (0, 5)] == [0, 5]


def test_rows_come_back_from_the_file_and_a_new_one_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row("b", inf, distances=[0.5, inf]), row("a", 0.5, 0.1)]
    save(rows, path)
    assert stored(path) == rows[::-1]
    save([*rows, row("b", 2.0)], path)
    assert stored(path) == [row("a", 0.5, 0.1), row("b", 2.0)]
    for text in path.read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)  # inf is no JSON


def test_the_best_found_most_and_of_equals_in_fewest_passes() -> None:
    first, second = row("a", 1.0, passes=300), row("b", 1.0)
    assert best([first, second, row("c", 2.0), row("d", 0.0) | {"error": "broken"}]) is second
    assert best([]) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "radius", "worse"),
    [
        (1.0, 1.0, inf, False), (1.01, 1.0, inf, False), (1.011, 1.0, inf, True), (inf, 1.0, inf, True),
        (inf, inf, inf, False), (0.31, 0.3, 0.1, False), (0.32, 0.3, 0.1, True), (0.2, 0.3, 0.1, False),
    ],
)  # fmt: skip
def test_worse_is_one_percent_farther_or_two_images_more(
    ours: float, theirs: float, radius: float, worse: bool
) -> None:
    assert line(row("fastadv", ours, radius), row("a", theirs, radius)).worse is worse


def test_a_quantized_net_rounds_and_its_gradient_is_that_of_the_net() -> None:
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model = Quantized(layers, input_levels=8, levels=4)
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inner = (layers[0]((x * 8).round() / 8).relu() * 4).round() / 4
    torch.testing.assert_close(model(x), layers[2](inner))
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    passed = (layers[0]((x * 8).round() / 8) > 0).float()
    torch.testing.assert_close(gradient, (passed * layers[2].weight[0]) @ layers[0].weight)
    assert not model.training
