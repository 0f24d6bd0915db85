"""SegPGD: its schedule, step by step."""

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Share

from .nets import images, seed_cpu


def net() -> nn.Module:
    seed_cpu(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 3, 3, padding=1)).double()


def by_hand(model: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int, size: float) -> list[Tensor]:
    """The loop of the paper in Linf from x, with the label 7 left out; all points."""
    points = [x]
    counts = y != 7
    labels = torch.where(counts, y, 0)
    for t in range(1, steps + 1):
        z = points[-1].clone().requires_grad_()
        logits = model(z)
        own = logits.gather(1, labels[:, None])
        away = (logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own[:, 0]).detach().abs() * counts
        unit = 0.15 * away.sum((1, 2), keepdim=True) / counts.sum((1, 2), keepdim=True)
        each = nn.functional.cross_entropy(logits / unit[:, None], labels, reduction="none")
        share = (t - 1) / (2 * steps)
        weight = torch.where(logits.argmax(1) == labels, 1 - share, share) * counts / (1 + each.detach()) ** 2
        (gradient,) = torch.autograd.grad((weight * each).sum(), z)
        moved = points[-1] + size * gradient.sign()
        points.append(torch.minimum(torch.maximum(moved, x - radius), x + radius).clamp(0, 1))
    return points


def test_points_are_those_of_the_paper() -> None:
    model, x = net(), images(4, (2, 6, 6))
    y = model(x).argmax(1)
    y[:, 2] = 7
    points = by_hand(model, x, y, 0.2, 6, 0.05)
    wrong = torch.stack([((model(z).argmax(1) != y) & (y != 7)).flatten(1).sum(1) for z in points])
    out = fa.attacks.segpgd(
        model, x, y, fa.Linf(0.2), steps=6, step_size=0.05, random_start=False,
        criterion=Share(1.0, ignore=7),
    )  # fmt: skip
    assert torch.equal(((model(out.x_adv).argmax(1) != y) & (y != 7)).flatten(1).sum(1), wrong.amax(0))
    for place, most in enumerate(wrong.argmax(0).tolist()):
        if (wrong[:, place] == wrong[most, place]).sum() == 1:  # else the loss decides
            torch.testing.assert_close(out.x_adv[place], points[most][place])
    assert (wrong.amax(0) > 0).all()
