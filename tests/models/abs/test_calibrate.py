"""The constants of decisions and confidences: each is the best of its kind on the images it is set from."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fastadv.models.abs.options import PRUNE_GAIN, class_factors
from tests.refusals import refuses

from .nets import images, tiny


def test_factors_repair_a_class_that_is_too_cheap():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (400,), generator=generator)
    losses = 0.03 + 0.01 * torch.rand(400, 4, generator=generator)
    losses[torch.arange(400), y] -= 0.012 * torch.rand(400, generator=generator)
    losses[:, 1] *= 0.94
    factors = class_factors(losses, y)
    before, after = ((losses * f).argmin(1) == y for f in (torch.ones(4), factors))
    assert after.sum() > before.sum()
    assert factors[1] > 1.02
    assert torch.equal(class_factors(torch.eye(4) * -1 + 2, torch.arange(4)), torch.ones(4))


@pytest.mark.parametrize(("binary", "prune"), [(False, True), (True, False)])
def test_calibrate_sets_the_constants_and_nothing_else(binary, prune):
    model = tiny(binary=binary, prune=prune, scale=1.0, floor=0.0, precision="bf16", steps=20)
    x, y = images(model, 60, noise=0.25)
    y[::30] = (y[::30] + 1) % 3  # else the scale has no end
    model.calibrate(x, y)
    factors = tiny(binary=True, precision="bf16", steps=20)
    assert torch.equal(model.factors, class_factors(factors.infer(x).loss, y))
    plain = tiny(binary=binary, precision="bf16", steps=20, factors=model.factors)
    first, losses, scale = plain.infer(x, steps=1).loss, plain.infer(x).loss, model.options.scale
    at, below, above = (cross_entropy(-by * scale * losses.double(), y) for by in (1.0, 0.97, 1.03))
    assert at <= min(below, above)
    sure = plain.with_options(scale=scale, floor=model.options.floor).confidence(x).amax(1)
    assert float(sure.median()) == pytest.approx(0.9, abs=1e-6)
    lowest, second = (losses / first).flatten().sort().values[:2]  # of 180, two in a thousand end below
    assert 0 < lowest < model.options.prune_gain < second < 1
    untouched = {"scale": 1.0, "floor": 0.0, "prune_gain": PRUNE_GAIN}
    expected = tiny(binary=binary, prune=prune, precision="bf16", steps=20, **untouched).options
    assert model.options.changed(**untouched) == expected
    model.calibrate(x, y.roll(1))  # nothing is sure then
    assert model.options.floor == 0


def test_images_that_are_not_finite_are_refused():
    model = tiny()
    x, y = images(model, 6)
    x[2, 0, 3, 3] = torch.nan
    refuses("calibrate: expected finite images", model.calibrate, x, y)
