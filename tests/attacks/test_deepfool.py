"""DeepFool: its first step by hand, and linear models in the dimensions of images, where it ends at once."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastadv.attacks import deepfool
from fastadv.threat import L2, Linf

from .nets import Counted, images, labels, mlp
from .watched import watched

DUAL = {"linf": 1, "l2": 2}


@pytest.mark.parametrize(("norm", "kind"), [("linf", Linf), ("l2", L2)])
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, 5.0), (-torch.inf, torch.inf)], ids=str)
def test_the_first_step_by_hand(
    norm: str, kind: Callable[..., Linf | L2], overshoot: float, box: tuple[float, float]
) -> None:
    """To the nearest of three boundaries and beyond it: never the one of the smallest gap or gradient."""
    net, x = mlp(4), images(24) * 0.5 + 0.25
    (model, seen), y = watched(net), labels(net, x)
    deepfool(model, x, y, kind(torch.inf, box), steps=1, overshoot=overshoot)
    leaf = x.clone().requires_grad_()
    logits = net(leaf)
    best, moved = torch.full((24,), torch.inf, dtype=torch.float64), torch.zeros_like(x)
    choices = torch.zeros(24, dtype=torch.long)
    for step in range(1, 4):
        other = (y + step) % 4
        lack = (logits.gather(1, y[:, None]) - logits.gather(1, other[:, None])).squeeze(1)
        (gradient,) = torch.autograd.grad(-lack.sum(), leaf, retain_graph=True)
        size = gradient.flatten(1).norm(p=DUAL[norm], dim=1)
        unit = gradient.sign() if norm == "linf" else gradient / size.view(-1, 1, 1, 1)
        distance = (lack / size).detach()
        nearer = distance < best
        width = box[1] - box[0] if box[1] < torch.inf else 1.0
        length = (1 + overshoot) * (distance + 1e-4 * width)
        moved = torch.where(nearer.view(-1, 1, 1, 1), unit * length.view(-1, 1, 1, 1), moved)
        best, choices = torch.where(nearer, distance, best), torch.where(nearer, other, choices)
    runner_up = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    assert (choices != runner_up).any()  # or the test would not tell distances from gaps
    points = (x + moved).clamp(*box)
    assert any(len(z) == 24 and torch.allclose(z, points, rtol=0, atol=1e-9) for z in seen)


def test_candidates_bound_the_rivals_and_the_passes() -> None:
    """The class with the second largest logit is far away, the third is near."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 784, generator=draw) * torch.tensor([[0.0], [0.1], [3.0]]))
        model[1].bias.copy_(torch.tensor([1.0, 0.5, 0.0]) - model[1].weight.sum(1) / 2)
    x, y = torch.full((2, 1, 28, 28), 0.5, dtype=torch.float64), torch.tensor([0, 0])
    backwards: list[int] = []
    counted = Counted(model, lambda n: None, backwards.append)
    both = deepfool(counted, x, y, L2(torch.inf), steps=5)
    second = deepfool(model, x, y, L2(torch.inf), steps=5, candidates=1)
    assert (labels(model, both.x_adv) == 2).all()
    assert (labels(model, second.x_adv) == 1).all()
    assert (second.distance > 1.2 * both.distance).all()
    assert both.backwards == sum(backwards) == 2 * second.backwards
    assert second.backwards == 2 * 2  # at x, and where the decision changed
