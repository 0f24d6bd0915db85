"""FMN on a network with sparse gradients, and on models that set pixels to 0 or 1."""

from math import inf

import pytest
import torch

from fastadv.attacks import Status, fmn
from fastadv.models import Binarized
from fastadv.threat import L2, THREATS
from tests.parity import models

from .halfspaces import nearest, problem
from .nets import Counted, images, labels, mlp


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "median"), [("linf", 0.34), ("l2", 1.75), ("l1", 6.0), ("l0", 16)])
def test_a_robust_network_falls(norm: str, median: float, shared_data) -> None:  # type: ignore[no-untyped-def]
    """Its gradients are sparse and small: the steps of the paper leave some images, or go further."""
    model, x, y = models.problem("linf", 25, shared_data.data_dir, shared_data.abs_official)
    out = fmn(model, x, y, THREATS[norm](inf), steps=100)
    assert (out.success | (out.status == Status.ALREADY_WRONG)).all()
    assert out.distance.median() <= median


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_models_that_set_pixels_to_0_or_1(norm: str) -> None:
    """The ball is that of the points, not of the nearer ones that look the same to the model."""
    model, x, y = problem(784, 3)
    binary = Binarized(model)
    y = labels(binary, x)
    out = fmn(binary, x, y, THREATS[norm](inf), steps=100)
    assert out.success.all()
    assert (labels(binary, out.x_adv) != y).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_far_from_the_box_the_first_step_leads_to_the_boundary(norm: str) -> None:
    """And by gamma beyond it; in L2 the steps of the paper do, too."""
    model, x, _ = problem(784, 2, size=4)
    model.double()
    x = 0.4 + 0.2 * x.double()
    y = labels(model, x)
    exact, _ = nearest(model, x, y, norm)
    out = fmn(model, x, y, THREATS[norm](inf), steps=1, gamma=0.01)
    torch.testing.assert_close(out.distance.double(), exact * 1.01, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_step_costs_one_gradient_where_nothing_is_found() -> None:
    net, x = mlp(), images(6)
    backwards: list[int] = []
    out = fmn(Counted(net, lambda n: None, backwards.append), x, labels(net, x), L2(1e-6), steps=30)
    assert not out.success.any()
    assert sum(backwards) == out.backwards == 6 * 30
