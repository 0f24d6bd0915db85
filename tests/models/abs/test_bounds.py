"""Lower bounds against their formulas, and against all patterns, where everything can be tried."""

import itertools

import pytest
import torch

from fastadv.models import ABS
from tests.refusals import refuses

from .nets import images, tiny

LATENTS = 1501


def one_layer(weight, bias, **options):
    """An ABS with weights [K, 1, C, k, k] and biases [K, C] whose prior samples cover all its latents."""
    model = ABS([weight], [bias], (1,), prior_samples=len(bias), steps=100, step_size=0.003, **options)
    model.prior_latents = torch.linspace(-model.options.max_norm, model.options.max_norm, 501)[:, None]
    return model


def curves(seed, **options):
    g = torch.Generator().manual_seed(seed)
    return one_layer(3 * torch.randn(3, 1, 2, 1, 1, generator=g), torch.randn(3, 2, generator=g), **options)


def explained(model):
    """(images [K, Z, D], latents [Z]) on a fine grid of the latent, float64."""
    z = torch.linspace(-model.options.max_norm, model.options.max_norm, LATENTS, dtype=torch.float64)
    weight, bias = model.weights[0].double().flatten(2), model.biases[0].double()
    bias = bias.repeat_interleave(weight.shape[2] // bias.shape[1], 1)
    return (z[None, :, None] * weight + bias[:, None]).sigmoid(), z


def class_losses(model, x):
    """Squared misfit plus prior [N, K] of images x [N, D], by exhaustive search; times any factors."""
    images, z = explained(model)
    square = (
        x.square().sum(1)[:, None, None] - 2 * torch.einsum("nd,kzd->nkz", x, images) + images.square().sum(2)
    )
    least = (square + model.options.beta / 2 * z.square()).amin(2)
    return least * model.factors.double() if model.options.binary else least


def random_points(model, count=60, seed=10):
    x = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, class_losses(model, x).argmin(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "beta", "tight"), [("linf", 0.05, True), ("l2", 0.05, False), ("l2", 0.4, True)]
)
def test_a_bound_is_that_of_the_formula(norm, beta, tight):
    """In L-infinity the radius at which the worst cases meet."""
    model = curves(3, beta=beta)
    x, y = random_points(model)
    images, z = explained(model)
    gaps, cost, rows = (images - x[:, None, None]).abs(), beta / 2 * z.square(), torch.arange(len(x))
    square = gaps.square().sum(3)
    loss, best = (square + cost)[rows, y].min(1)

    def holds(e):
        mine = (gaps[rows, y, best] + e[:, None]).square().sum(1) + cost[best]
        theirs = ((gaps - e[:, None, None, None]).clamp_min(0).square().sum(3) + cost).amin(2)
        return mine < theirs.scatter(1, y[:, None], torch.inf).amin(1)

    if norm == "linf":
        expected, high = torch.zeros_like(loss), torch.ones_like(loss)
        for _ in range(30):
            middle = (expected + high) / 2
            kept = holds(middle)
            expected, high = torch.where(kept, middle, expected), torch.where(kept, high, middle)
    else:
        own, rivals = square[rows, y, best].sqrt(), (square + cost if tight else square).amin(2)
        radius = (rivals - loss[:, None]) / (2 * (rivals.sqrt() + own[:, None]))
        expected = radius.scatter(1, y[:, None], torch.inf).amin(1).clamp_min(0)
    bound = model.lower_bound(x.view(-1, 2, 1, 1), y, norm=norm, tight=tight)
    torch.testing.assert_close(bound.double(), expected, rtol=3e-3, atol=1.5e-3)


PATTERNS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)


def binary_model(factors, beta):
    """Three classes of nearly black and white images [9, 1, 1], which the latent changes a little."""
    g = torch.Generator().manual_seed(4)
    shapes = torch.tensor([
        [1, 1, 1, 1, 0, 1, 1, 1, 1],
        [0, 1, 0, 0, 1, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 0, 1, 1, 1],
    ]).float()  # fmt: skip
    weight = 0.6 * torch.randn(3, 1, 9, 1, 1, generator=g)
    return one_layer(weight, 3 * (2 * shapes - 1), binary=True, factors=factors, beta=beta)


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "tight"), [(0.1, True), (0.6, False)])
def test_no_crossing_within_the_bound_changes_a_binary_decision(beta, tight):
    model = binary_model([1.0, 0.7, 1.3], beta)
    decided = class_losses(model, PATTERNS).argmin(1)
    g = torch.Generator().manual_seed(5)
    # every pattern in gray: pixels at different distances from the threshold
    far = torch.rand(2, 512, 9, generator=g) / 2
    x = torch.where(PATTERNS > 0, 0.5 + far[0], far[1])
    x = x.double()
    crossed = PATTERNS[:, None] != PATTERNS[None]
    gaps = (x - 0.5).abs()
    other = decided[:, None] != decided[None]
    crossings = needed_crossings(model, decided, tight)
    for norm in ("l2", "linf"):
        moved = gaps[:, None].where(crossed, 0.0)
        cost = moved.square().sum(2).sqrt() if norm == "l2" else moved.amax(2)
        true = cost.masked_fill(~other, torch.inf).amin(1)
        bound = model.lower_bound(x.view(-1, 9, 1, 1), decided, norm=norm, tight=tight).double()
        assert (bound <= true + 1e-6).all()
        nearest = gaps.sort(1).values.masked_fill(torch.arange(9) >= crossings[:, None], 0.0)
        expected = nearest.square().sum(1).sqrt() if norm == "l2" else nearest.amax(1)
        assert ((bound - expected).abs() < 1e-6).double().mean() > 0.99  # the rest are ties
    pixels = crossed.sum(2).double().masked_fill(~other, torch.inf).amin(1)
    bound = model.lower_bound(x.view(-1, 9, 1, 1), decided, norm="l0", tight=tight).double()
    assert (bound < pixels).all()
    assert ((bound - (crossings - 1).clamp_min(0)).abs() < 1e-6).double().mean() > 0.99
    assert len(crossings.unique()) >= 2


def needed_crossings(model, decided, tight):
    """The least n [512], by trying all, at which another class wins if n crossings help it all they can."""
    images, z = explained(model)
    square = (PATTERNS[:, None, None] - images).square().sum(3)
    cost = model.options.beta / 2 * z.square()
    mine = (square + cost).amin(2)[torch.arange(len(PATTERNS)), decided]
    rivals = (square + cost if tight else square).amin(2).scatter(1, decided[:, None], torch.inf)
    factors = model.factors.double()
    n = torch.arange(10.0, dtype=torch.float64)
    wins = factors[decided][:, None, None] * (mine[:, None, None] + n) >= factors[:, None] * (
        rivals[..., None] - n
    )
    return wins.any(1).int().argmax(1)


def model_and_images(count=12, **options):
    model = tiny(latents=1, prior_samples=300, **options)
    x, _ = images(model, count, noise=0.2)
    x = x.round() if options.get("binary") else x
    return model, x, model(x).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "binary"), [("l2", False), ("linf", True)])
def test_bounds_are_computed_in_single_precision_and_without_pruning(binary, norm):
    options = {"binary": binary, "factors": [1.0, 0.95, 1.05]}
    exact, x, y = model_and_images(**options)
    rough, x, _ = model_and_images(**options, precision="bf16", prune=True, prune_gain=0.9)
    kept = rough(x).argmax(1) == y
    assert kept.any()
    expected = exact.lower_bound(x, y, norm=norm, tight=True)
    assert torch.equal(rough.lower_bound(x, y, norm=norm, tight=True), expected.where(kept, 0.0))


def test_bad_input():
    model, x, y = model_and_images()
    for options, word in (
        ({"norm": "l1"}, "norm"),
        ({"starts": 0}, "starts"),
        ({"starts": 301}, "starts"),
        ({"starts": 1.5}, "starts"),
    ):
        refuses(word, model.lower_bound, x, y, **options)
    for labels in (y[:-1], y + 3, y - 3, y.float(), y[:, None]):
        refuses("y", model.lower_bound, x, labels)
