"""DeepFool by its first step, SuperDeepFool by the paper's loop; linear models: test_closed_forms.py."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import deepfool, superdeepfool
from fastadv.threat import L2, Linf

from .nets import images, labeled, labels, mlp
from .watched import watched

DUAL = {"linf": 1, "l2": 2}


@pytest.mark.parametrize(("norm", "kind"), [("linf", Linf), ("l2", L2)])
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, 5.0), (-torch.inf, torch.inf)], ids=str)
def test_the_first_step_by_hand(norm, kind, overshoot, box):
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


def by_hand(net: nn.Module, x: Tensor, y: int, box: tuple[float, float], overshoot: float) -> Tensor:
    """The nearest success of algorithm 2 on x [1, ...], where gaining no hundredth ends it."""

    def normals(z: Tensor) -> tuple[Tensor, Tensor, int]:
        """Of each other class: how much it lacks, and the normal [K, D]; and the class of the decision."""
        leaf = z.clone().requires_grad_()
        logits = net(leaf)[0]
        rows = [torch.autograd.grad(one - logits[y], leaf, retain_graph=True)[0] for one in logits]
        return (
            (logits[y] - logits).detach(),
            torch.stack([row.flatten() for row in rows]),
            int(logits.argmax()),
        )

    z, nearest, last, projected = x, None, torch.inf, False
    for _ in range(200):
        lack, normal, decision = normals(z)
        if decision != y:
            length = float((z - x).norm())
            nearest = z if nearest is None or length < float((nearest - x).norm()) else nearest
            if projected or not length < 0.99 * last:
                break
            w, last, projected = normal[decision], length, True
            z = x + (((z - x).flatten() @ w) / (w @ w) * w).view(x.shape)
        else:
            size = normal.norm(dim=1)
            ways = torch.where(size > 0, lack / size, torch.inf)
            k, projected = int(ways.argmin()), False
            width = box[1] - box[0] if box[1] < torch.inf else 1.0
            z = z + ((1 + overshoot) * (ways[k] + 1e-4 * width) / size[k] * normal[k]).view(x.shape)
        z = z.clamp(*box)
    assert nearest is not None
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (low, middle) if labels(net, x + middle * (nearest - x)) != y else (middle, high)
    return x + high * (nearest - x)


@pytest.mark.slow
@pytest.mark.parametrize(("overshoot", "classes"), [(0.02, 4), (0.3, 4), (0.5, 9)])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-torch.inf, torch.inf)], ids=str)
def test_by_hand(box: tuple[float, float], overshoot: float, classes: int) -> None:
    """Of many classes, a boundary that was not crossed may be nearer to a success than the one that was."""
    net, x, y = labeled(mlp(classes), images(12))
    out = superdeepfool(net, x, y, L2(torch.inf, box), overshoot=overshoot)
    alone = [by_hand(net, x[i : i + 1], int(y[i]), box, overshoot) for i in range(12)]
    torch.testing.assert_close(out.x_adv, torch.cat(alone))


def test_each_candidate_costs_a_backward_pass() -> None:
    net, x, y = labeled(mlp(9), images(12))
    one, two, every = (
        superdeepfool(net, x, y, L2(torch.inf), steps=1, candidates=n, searches=0) for n in (1, 2, None)
    )
    assert (one.backwards, two.backwards, every.backwards) == (12, 24, 96)
