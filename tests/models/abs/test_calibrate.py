"""The constants of decisions and confidences, against their definitions."""

import torch

from fastadv.models.abs.calibrate import class_factors, confidence_floor, confidence_scale, graded

from .nets import images, tiny


def made_losses(count=400, seed=0):
    """Losses of four classes, the right one mostly the lowest."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=g)
    losses = 0.03 + 0.01 * torch.rand(count, 4, generator=g)
    losses[torch.arange(count), y] -= 0.012 * torch.rand(count, generator=g)
    return losses, y


def test_scale_is_of_least_cross_entropy():
    losses, y = made_losses()
    scale = confidence_scale(losses, y)
    entropy = [
        float(torch.nn.functional.cross_entropy(-factor * scale * losses.double(), y))
        for factor in (0.97, 1.0, 1.03)
    ]
    assert entropy[1] == min(entropy)


def test_scale_of_losses_that_never_err_is_bounded():
    losses, y = made_losses()
    losses = losses.scatter_add(1, y[:, None], torch.full((len(y), 1), -0.02))
    assert (losses.argmin(1) == y).all()
    scale = confidence_scale(losses, y)
    assert 0 < scale < 1e4
    assert graded(-losses, scale, confidence_floor(losses, scale)).isfinite().all()


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


def test_calibrate_sets_all_and_keeps_the_mode():
    for binary in (False, True):
        model = tiny(binary=binary, scale=1.0, floor=0.0)
        x, y = images(model, 60)
        model.calibrate(x, y)
        assert model.binary is binary
        assert model.scale > 1
        assert 0 < model.prune_gain < 1
        assert (model.factors - 1).abs().max() <= 0.1 + 1e-6
