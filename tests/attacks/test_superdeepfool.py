"""SuperDeepFool next to the paper's loop, written here for one sample; linear models are in another test."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import deepfool, superdeepfool
from fastadv.threat import L2

from .nets import images, labeled, labels, mlp


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
        wrong = labels(net, x + middle * (nearest - x)) != y
        low, high = (low, middle) if wrong else (middle, high)
    return x + high * (nearest - x)


@pytest.mark.parametrize(("overshoot", "classes"), [(0.02, 4), (0.3, 4), (0.5, 9)])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-torch.inf, torch.inf)], ids=str)
def test_by_hand(box: tuple[float, float], overshoot: float, classes: int) -> None:
    """Of many classes, a boundary that was not crossed may be nearer to a success than the one that was."""
    net, x, y = labeled(mlp(classes), images(12))
    out = superdeepfool(net, x, y, L2(torch.inf, box), overshoot=overshoot)
    alone = [by_hand(net, x[i : i + 1], int(y[i]), box, overshoot) for i in range(12)]
    torch.testing.assert_close(out.x_adv, torch.cat(alone))


def test_projections_lead_to_the_nearest_point_of_an_ellipse() -> None:
    def model(z: Tensor) -> Tensor:
        inside = 1 - (z * torch.tensor([1.0, 3.0], dtype=z.dtype)).square().sum(1)
        return torch.stack([inside, torch.zeros_like(inside)], 1)

    x = torch.tensor([[0.3, 0.1], [0.5, 0.1], [0.2, 0.2]], dtype=torch.float64)
    angle = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    exact = torch.cdist(x, torch.stack([angle.cos(), angle.sin() / 3], 1)).amin(1)
    y, plane = torch.zeros(3, dtype=torch.long), L2(torch.inf, (-torch.inf, torch.inf))
    assert (superdeepfool(model, x, y, plane).distance < 1.003 * exact).all()
    assert (deepfool(model, x, y, plane).distance > 1.3 * exact).all()


def test_each_candidate_costs_a_backward_pass() -> None:
    net, x, y = labeled(mlp(9), images(12))
    one, two, every = (
        superdeepfool(net, x, y, L2(torch.inf), steps=1, candidates=n, searches=0) for n in (1, 2, None)
    )
    assert (one.backwards, two.backwards, every.backwards) == (12, 24, 96)
