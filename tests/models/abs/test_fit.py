"""Training: it learns, and every bad set is named."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from fastadv import rng
from fastadv.data import ImageSet, load
from fastadv.models import ABS
from fastadv.models.abs.decoder import DecoderShape, VAEs, losses
from fastadv.models.abs.fit import balanced, read_images, warp
from tests.refusals import refuses

from .nets import images, tiny

SHAPE = DecoderShape((2, 6, 1), (3, 4), (1, 2))
QUICK = {"shape": SHAPE, "width": 4, "batch_size": 24, "prior_samples": 100, "calibration": 0}


def drawn(count=90, seed=1):
    x, y = images(tiny(), count, noise=0.05, seed=seed)
    return ImageSet(x, y, 3, "drawn")


def quick(dataset=None, **options):
    return ABS.fit(drawn() if dataset is None else dataset, **{"epochs": 3, **QUICK, **options})


@pytest.mark.slow
def test_it_learns_the_digits():
    train, test = load("digits", "train"), load("digits", "test")
    model = ABS.fit(train, epochs=4, batch_size=100, prior_samples=300, calibration=300)
    x, y = test.x[:100], test.y[:100]
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    assert (model(x).argmax(1) == y).float().mean() >= 0.94
    assert model.options.beta == 64 / 784
    assert 0.8 <= model.confidence(x).amax(1).median() <= 0.97
    assert model.card["config"]["data"]["name"] == "digits train"
    assert model.prior_latents.shape == (300, 8)
    assert not model.training


def test_the_decoders_handed_on_are_the_trained_ones():
    net = VAEs(SHAPE, 3, 4, 0)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        net(torch.rand(8, 3, 1, 8, 8, generator=g), torch.randn(8, 3, 2, generator=g))
    net.eval()
    x, noise = torch.rand(4, 3, 1, 8, 8, generator=g), torch.randn(4, 3, 2, generator=g)
    _, unbiased, _ = net(x, noise)
    with torch.no_grad():
        net.code_bias.add_(0.5)
        net.image_bias.normal_(generator=g)
    image, mean, log_variance = net(x, noise)
    torch.testing.assert_close(mean, unbiased + 0.5)
    model = ABS(*net.decoders(), SHAPE.strides, prior_samples=10)
    torch.testing.assert_close(
        model.decoders(mean + (log_variance / 2).exp() * noise), image, rtol=1e-4, atol=1e-5
    )


def test_classes_train_apart():
    """Columns of the batch do not mix: class 1's loss has no gradient on the others' images."""
    net = VAEs(SHAPE, 3, 4, 0)
    x = torch.rand(6, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = losses(x, *net(x, torch.zeros(6, 3, 2)), beta=1.0)
    (gradient,) = torch.autograd.grad(loss[:, 1].sum(), x)
    assert gradient[:, 1].abs().sum() > 0
    assert gradient[:, [0, 2]].abs().sum() == 0


def test_divergence_is_that_of_two_normals():
    mean, log_variance = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    x = torch.zeros(5, 3, 1, 2, 2)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(torch.zeros(()), torch.ones(())),
    ).sum(2)
    torch.testing.assert_close(losses(x, x + 0.5, mean, log_variance, beta=3.0), 1.0 + 3 * expected)


def test_batches_are_balanced_and_keyed():
    x, y = images(tiny(), 40)
    y[y == 2] = 1
    y[:4] = 2  # a small class
    data = read_images(ImageSet(x, y, 3, "uneven"))
    ids = balanced(data, 4, 4, 0, 0)
    assert ids.shape == (4, 4, 3)
    for k in range(3):
        assert (y[ids[..., k]] == k).all()
    assert ids[..., 2].unique().numel() == 4
    assert torch.equal(ids, balanced(data, 4, 4, 0, 0))
    assert not torch.equal(ids, balanced(data, 4, 4, 0, 1))


@pytest.mark.parametrize(("batch_size", "steps"), [(24, 4), (3, 15)])
def test_a_batch_has_two_images_of_each_class_at_least(batch_size, steps):
    seen = []
    quick(epochs=1, batch_size=batch_size, progress=lambda *at: seen.append(at))
    assert seen[-1] == (steps, steps)


def test_a_warp_is_the_affine_map_of_its_draws():
    ids, seed = torch.arange(100, 300), 5
    axis = (torch.arange(28) + 0.5) / 14 - 1  # centers of pixels, from -1 to 1
    x, y = axis.expand(28, 28), axis[:, None].expand(28, 28)
    drawn = rng.uniform(6, seed, ids)
    zoom, across, down, right, lower = ((2 * part - 1)[:, None, None] for part in drawn[:, 1:].unbind(1))
    zoom, across, down, right, lower = 1 + 0.1 * zoom, 0.1 * across, 0.1 * down, right / 14, lower / 14
    there = zoom * x + across * y + right, down * x + zoom * y + lower
    expected = 0.5 + 0.2 * there[0] + 0.1 * there[1]
    image = (0.5 + 0.2 * x + 0.1 * y).expand(200, 1, 28, 28)
    moved = warp(image, ids, seed)
    chosen = drawn[:, 0] < 0.3
    inside = slice(5, 23)
    torch.testing.assert_close(
        moved[chosen][:, 0, inside, inside], expected[chosen][:, inside, inside], rtol=0, atol=1e-5
    )
    assert torch.equal(moved[~chosen], image[~chosen])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_sets_and_labels_of_any_type_will_do(dtype):
    dataset = drawn(24)
    y = dataset.y % 2
    typed, plain = (SimpleNamespace(x=dataset.x, y=labels) for labels in (y.to(dtype), y))
    options = {"epochs": 1, "calibration": 9}
    pairs = [(image, int(label)) for image, label in zip(dataset.x, y, strict=True)]
    mine, theirs, paired = (quick(labels, **options) for labels in (typed, plain, pairs))
    for other in (theirs, paired):
        assert torch.equal(mine.weights[0], other.weights[0])
        assert mine.options == other.options


def test_it_reports_each_step_and_draws_by_its_seed_alone():
    seen = []
    before = torch.get_rng_state()
    model = quick(progress=lambda *at: seen.append(at))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, model.buffers(), quick().buffers()))
    assert not torch.equal(quick(seed=1).weights[1], model.weights[1])
    assert model.card["measured"]["loss"] < quick(epochs=1).card["measured"]["loss"]


# argument: (what the error names, a wrong value)
WRONG = {
    "epochs": ("epochs", 0),
    "latents": ("latents", 0),
    "shape": ("shape", (1, 2)),
    "learning_rate": ("learning_rate", 0.0),
    "beta": ("beta", (1.0, -1.0)),
    "augment": ("augment", "yes"),
    "training_precision": ("training_precision", "fp8"),
    "seed": ("seed", -1),
    "calibration": ("calibration", -1),
    "progress": ("progress", 3),
    # of the model
    "prior_samples": ("prior_", 2),
    "factors": ("factors", [1.0, 1.0, -1.0]),
    "steps": ("steps", 0),
    "options": ("options", {"steps": 3}),
    "strides": ("strides", (1, 2)),
    "binry": ("binry", True),
}


def test_sets():
    x, y = images(tiny(), 30)
    plain = partial(SimpleNamespace, num_classes=3)
    for dataset, word in (
        (plain(x=x * 255, y=y), r"\[0, 1\]"),
        (plain(x=x * torch.nan, y=y), r"\[0, 1\]"),
        (plain(x=torch.rand(30, 1, 9, 9), y=y), "images"),
        (plain(x=x, y=y % 2), r"none of \[2\]"),
        (plain(x=x, y=y + 1), "labels"),
        (plain(x=x, y=y - 1), "labels"),
        (plain(x=x, y=y[:-1]), "labels"),
        (plain(x=x, y=y.float()), "labels"),
        (plain(x=x[:0], y=y[:0]), "0 of"),
        ([], "empty"),
        ([(x[0], 0), (torch.zeros(1, 9, 9), 1)], "one shape"),
    ):
        refuses(word, quick, dataset)


@pytest.mark.parametrize("name", WRONG)
def test_options_are_refused_before_the_first_epoch(name, monkeypatch):
    monkeypatch.setattr(VAEs, "forward", lambda self, x, noise: pytest.fail("trained first"))
    word, value = WRONG[name]
    settings = {"shape": None} if name in ("latents", "width") else {}
    refuses(word, quick, **{**settings, name: value})


def test_losses_that_are_not_finite():
    with pytest.raises(FloatingPointError, match="epoch 1"):
        quick(learning_rate=1e30)
