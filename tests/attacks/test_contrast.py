"""Contrast by closed form: on the way to gray a linear model changes its mind at a share that is known."""

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks import Status, contrast
from fastadv.threat import THREATS, Linf

from .nets import images, labels, mlp

INF = torch.inf
NORMS = ("l2", "linf")


class Less(nn.Module):
    """Says class 1 where the share of the contrast that is gone, seen at pixel 0, lies in [least, most)."""

    def __init__(self, least: float, most: float = INF, box: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.least, self.most, self.box = least - 1e-9, most, box

    def forward(self, z: Tensor) -> Tensor:
        gone = 2 * (self.box[1] - z[:, 0]) / (self.box[1] - self.box[0])
        return nn.functional.one_hot(((gone >= self.least) & (gone < self.most)).long(), 2).to(z)


def bright(size: int, inputs: int, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Images with many pixels at the ends of the box; pixel 0 is at the upper one."""
    x = (3 * images(size, (inputs,)) - 1).clamp(0, 1)
    x[:, 0] = 1
    return x * (box[1] - box[0]) + box[0]


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [784, 3072])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, 5.0)], ids=str)
def test_the_least_share(inputs: int, norm: str, box: tuple[float, float]) -> None:
    x = bright(4, inputs, box)
    threat, gray = THREATS[norm](INF, box), sum(box) / 2
    for least in (0.02, 0.1, 0.3, 0.9999):
        out = contrast(Less(least, box=box), x, torch.zeros(4).long(), threat)
        whole = threat.distance(torch.full_like(x, gray), x)
        share = out.distance / whole
        assert (share >= least - 1e-5).all()
        assert (share <= least + 0.1 / 2**10 + 1e-5).all()
        assert out.forwards == 4 * (10 + 10 + 2)


@pytest.mark.parametrize("norm", NORMS)
def test_the_first_of_several_successes_is_taken(norm: str) -> None:
    """The image of one gray is no success here, so that a bisection of the whole way would find none."""
    x = bright(3, 784)
    out = contrast(Less(0.27, 0.55), x, torch.zeros(3).long(), THREATS[norm](INF))
    share = out.distance / THREATS[norm](INF).distance(torch.full_like(x, 0.5), x)
    torch.testing.assert_close(share.double(), torch.full((3,), 0.27).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_levels_cover_the_whole_way_whatever_the_radius(norm: str) -> None:
    x = bright(3, 784)
    whole = THREATS[norm](INF).distance(torch.full_like(x, 0.5), x)
    model, y = Less(0.27, 0.55), torch.zeros(3).long()
    radii = torch.stack([0.28 * whole[0], 0.26 * whole[1], 0.28 * whole[2]])
    out = contrast(model, x, y, THREATS[norm](radii))
    assert out.status.tolist() == [Status.BROKEN, Status.HELD, Status.BROKEN]
    assert torch.equal(out.x_adv[0], contrast(model, x, y, THREATS[norm](INF)).x_adv[0])


def test_a_gray_image_stays_and_stops_no_other() -> None:
    model, x = mlp(inputs=784), images(4, (784,))
    x[1] = 0.5
    y = labels(model, x)
    with torch.no_grad():  # what is gray is of another class than the rest
        model[3].bias -= 20 * nn.functional.one_hot(y[1], 3) - 20 * nn.functional.one_hot((y[1] + 1) % 3, 3)
    y = labels(model, x)
    out = contrast(model, x, y, Linf(INF))
    assert out.status[1] == Status.HELD
    assert torch.equal(out.x_adv[1], x[1])
    assert out.x_adv.isfinite().all()
