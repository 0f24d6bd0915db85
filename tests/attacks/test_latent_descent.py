"""Latent descent: an oracle, minimum-norm conventions, both schedules, binary models, bad input."""

import pytest
import torch
from torch import nn

from fastadv.attacks import Status
from fastadv.attacks.latent_descent import latent_descent
from fastadv.models.abs import Inference
from fastadv.threat import L2
from tests.refusals import refuses

from . import nets


class Prototypes(nn.Module):
    """The simplest model that explains: a class is one image, and its loss the squared distance to it."""

    def __init__(self, prototypes: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)

    def infer(self, x):
        loss = (x[:, None] - self.prototypes).flatten(2).square().sum(2)
        images = self.prototypes.expand(len(x), *self.prototypes.shape)
        return Inference(loss, torch.zeros(*loss.shape, 1), images)

    def forward(self, x):
        return -self.infer(x).loss


@pytest.fixture
def model():
    return Prototypes(torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)))


def near(model, count=12, noise=0.1):
    g = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    return (model.prototypes[y] + noise * torch.randn(count, 1, 4, 4, generator=g)).clamp(0, 1), y


@pytest.mark.parametrize("options", [{}, {"schedule": "line_search", "steps": 51}])
def test_it_finds_the_nearest_point_on_the_line(model, options):
    x, y = near(model, noise=0.0)
    out = latent_descent(model, x, y, **options)
    assert (out.status == Status.BROKEN).all()
    # x sits on its prototype: halfway to the nearest other one is the nearest adversarial of all
    others = (model.prototypes[y][:, None] - model.prototypes).flatten(2).norm(dim=2)
    half = others.scatter(1, y[:, None], torch.inf).amin(1) / 2
    torch.testing.assert_close(out.distance, half, rtol=2e-3, atol=0)
    assert (out.distance >= half - 1e-6).all()
    assert torch.equal(model(out.x_adv).argmax(1) != y, out.success)


@pytest.mark.slow
def test_targets(model):
    x, y = near(model)
    targets = (y + 1) % 3
    out = latent_descent(model, x, y, targets=targets)
    assert torch.equal(model(out.x_adv).argmax(1), targets)
    assert (out.distance >= latent_descent(model, x, y).distance - 1e-3).all()


@pytest.mark.slow
def test_abs_is_broken_outside_its_bound():
    model, x, y = nets.explained(binary=False)
    out = latent_descent(model, x, y, step_size=0.05)
    assert (out.status == Status.BROKEN).all()
    assert torch.equal(model(out.x_adv).argmax(1) != y, out.success)
    assert (out.distance >= model.lower_bound(x, y) - 1e-4).all()
    assert out.distance.max() < 6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_binary_abs_is_broken_alike_in_other_precisions(dtype):
    model, x, _ = nets.explained(binary=True)
    x = x.bfloat16().half().to(dtype)  # the same image in both
    y = model(x.float()).argmax(1)
    out, single = (latent_descent(model, z, y, step_size=0.05) for z in (x, x.float()))
    assert single.success.any()
    assert torch.equal(out.success, model(out.x_adv.float()).argmax(1) != y)
    assert torch.equal(out.success, single.success)
    assert out.x_adv.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "reconstruction"])
def test_a_value_that_is_not_finite_is_failed_and_not_held(model, what):
    """Of the first two samples, losses from the second evaluation on; of the others nothing changes."""

    class Poisoned(Prototypes):
        calls = 0

        def infer(self, x):
            self.calls += 1
            inferred = super().infer(x)
            loss, image = inferred.loss.clone(), inferred.reconstruction.clone()
            (loss if what == "loss" else image)[(x.flatten(1)[:, 0] > 0.9) & (self.calls > 1)] = torch.nan
            return Inference(loss, inferred.latents, image)

    x, _ = near(model)
    x[:, 0, 0, 0] = torch.where(torch.arange(12) < 2, 1.0, 0.1)
    y = model(x).argmax(1)
    out = latent_descent(Poisoned(model.prototypes), x, y)
    assert (out.status[:2] == Status.FAILED).all()
    assert torch.equal(out.x_adv[:2], x[:2])
    assert (out.status[2:] == Status.BROKEN).all()
    assert torch.equal(out.x_adv[2:], latent_descent(model, x[2:], y[2:]).x_adv)


def test_schedules_by_hand(model):
    """Without bisections the point is the first past halfway to the nearest prototype."""
    x, y = near(model, noise=0.0)
    rivals = (model.prototypes[y][:, None] - model.prototypes).flatten(2).norm(dim=2)
    image = model.prototypes[rivals.scatter(1, y[:, None], torch.inf).argmin(1)]
    line = latent_descent(model, x, y, schedule="line_search", steps=10, searches=0)
    torch.testing.assert_close(line.x_adv, x + 5 / 9 * (image - x))
    walk = latent_descent(model, x, y, step_size=0.1, searches=0)
    torch.testing.assert_close(walk.x_adv, x + (1 - 0.9**7) * (image - x))
    # The first bisection finds 0.495 of the way, which is too short, the second 0.508.
    narrowed = latent_descent(model, x, y, step_size=0.1, searches=2)
    torch.testing.assert_close(narrowed.x_adv, x + (1 - 0.25 * 0.9**6 - 0.75 * 0.9**7) * (image - x))
    last = latent_descent(model, x, y, schedule="line_search", steps=2, searches=0)
    torch.testing.assert_close(last.x_adv, image)
    # seven moves of a tenth cross the boundary halfway, and an eighth evaluation sees it
    assert latent_descent(model, x, y, step_size=0.1, steps=8).success.all()
    assert not latent_descent(model, x, y, step_size=0.1, steps=7).success.any()


def test_a_bent_way_is_cut_short(model):
    """The reconstruction first lies far to the side; the result is on the boundary of the straight line."""
    aside = torch.zeros(1, 4, 4)
    aside[0, 3] = 0.6

    class Bent(Prototypes):
        def infer(self, x):
            inferred = super().infer(x)
            far = (inferred.loss.amin(1) < 0.05)[:, None, None, None, None]
            return Inference(inferred.loss, inferred.latents, inferred.reconstruction + far * aside)

    x, y = near(model, noise=0.0)
    out = latent_descent(Bent(model.prototypes), x, y, step_size=0.1)
    assert out.success.all()
    assert torch.equal(model(x + 0.99 * (out.x_adv - x)).argmax(1), y)
    straight = latent_descent(model, x, y, step_size=0.1)
    assert (out.distance > 1.001 * straight.distance).any(), "the way is bent"


def test_the_box_holds_where_reconstructions_leave_it(model):
    x, y = near(model)
    x = x.clamp(0.2, 0.7)
    y = model(x).argmax(1)
    out = latent_descent(model, x, y, L2(torch.inf, box=(0.2, 0.7)), step_size=0.3)
    assert out.success.any()
    assert L2(9.0, box=(0.2, 0.7)).contains(out.x_adv, x).all()
    assert (out.x_adv[out.success].flatten(1).aminmax(dim=1).max == 0.7).any(), "the box is touched"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("steps", {"steps": 1}), ("steps", {"steps": 2.0}), ("searches", {"searches": -1}),
        ("step_size: expected a share > 0", {"step_size": 0.0}), ("step_size", {"step_size": -1.0}),
        ("step_size", {"step_size": None}), ("threat", {"threat": 0.3}), ("schedule", {"schedule": "other"}),
        ("targets", {"targets": torch.arange(12) % 3}), ("x: expected a floating", {"x": [[0.5]]}),
        ("infer", {"model": nets.linear()}), ("box", {"x": torch.full((12, 1, 4, 4), 9.0)}),
    ],
)  # fmt: skip
def test_bad_input(model, message, arguments):
    x, y = near(model)
    refuses(message, latent_descent, **{"model": model, "x": x, "y": y, **arguments})
