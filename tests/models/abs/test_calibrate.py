"""The constants of decisions and confidences, against their definitions."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fastadv.models.abs.options import (
    PRUNE_GAIN,
    class_factors,
    confidence_floor,
    confidence_scale,
    graded,
    least_share,
)
from tests.refusals import refuses

from .nets import images, tiny


def made_losses(count=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=g)
    losses = 0.03 + 0.01 * torch.rand(count, 4, generator=g)
    losses[torch.arange(count), y] -= 0.012 * torch.rand(count, generator=g)
    return losses, y


def test_scale_is_of_least_cross_entropy():
    losses, y = made_losses()
    scale = confidence_scale(losses, y)
    at, below, above = (cross_entropy(-by * scale * losses.double(), y) for by in (1.0, 0.97, 1.03))
    assert at <= min(below, above)


def test_floor_makes_the_median_confidence_nine_tenths():
    losses, _ = made_losses()
    floor = confidence_floor(losses, 2000.0)
    assert floor > 0
    assert abs(float(graded(-losses.double(), 2000.0, floor).amax(1).median()) - 0.9) < 1e-6
    assert confidence_floor(losses, 1.0) == 0  # already below


def test_factors_repair_a_class_that_is_too_cheap():
    losses, y = made_losses()
    skewed = losses * torch.tensor([1.0, 0.94, 1.0, 1.0])
    factors = class_factors(skewed, y)
    before, after = ((skewed * f).argmin(1) == y for f in (torch.ones(4), factors))
    assert after.sum() > before.sum()
    assert factors[1] > 1.02
    assert torch.equal(class_factors(torch.eye(4) * -1 + 2, torch.arange(4)), torch.ones(4))


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_calibrate_sets_the_constants_and_nothing_else(binary, prune):
    model = tiny(binary=binary, prune=prune, scale=1.0, floor=0.0, precision="bf16", steps=20)
    x, y = images(model, 60, noise=0.25)
    model.calibrate(x, y)
    factors = tiny(binary=True, precision="bf16", steps=20)
    assert torch.equal(model.factors, class_factors(factors.infer(x).loss, y))
    plain = tiny(binary=binary, precision="bf16", steps=20, factors=model.factors)
    losses = plain.infer(x).loss
    assert model.options.scale == confidence_scale(losses, y)
    assert model.options.floor == confidence_floor(losses, model.options.scale)
    assert model.options.prune_gain == least_share(plain.infer(x, steps=1).loss, losses)
    assert 0 < model.options.prune_gain < 1
    untouched = {"scale": 1.0, "floor": 0.0, "prune_gain": PRUNE_GAIN}
    expected = tiny(binary=binary, prune=prune, precision="bf16", steps=20, **untouched).options
    assert model.options.changed(**untouched) == expected


def test_images_that_are_not_finite_are_refused():
    model = tiny()
    x, y = images(model, 6)
    x[2, 0, 3, 3] = torch.nan
    refuses("calibrate: expected finite images", model.calibrate, x, y)
