"""The networks of Goodfellow et al. 2014 by hand, their gradients, and that they learn."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from papers.goodfellow2014.models import RBF, Ensemble, Maxout, Quadratic, maxout_sigmoids

SHAPE = (2, 11, 10)


def ensemble(shape: tuple[int, ...], classes: int, **options: Any) -> Ensemble:
    return Ensemble(Maxout(shape, classes, seed=seed, **options) for seed in range(3))


SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "maxout": (Maxout, {"units": 7, "pieces": 3}),
    "rbf": (RBF, {}),
    "quadratic": (Quadratic, {"units": 5}),
    "sigmoids": (maxout_sigmoids, {"units": 7}),
    "ensemble": (ensemble, {"units": 7}),
}


def lively(name: str, classes: int = 3, shape: tuple[int, ...] = SHAPE, **options: Any) -> nn.Module:
    """A small one in float64, with weights large enough for its logits to differ."""
    make, usual = SMALL[name]
    model: nn.Module = make(shape, classes, **(usual | options)).double().eval()
    if name not in ("rbf", "quadratic"):
        for weight in model.parameters():
            weight.data.normal_(0, 2 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1)
    return model


def batch(n: int = 5, classes: int = 3, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    return torch.rand(n, *shape, dtype=torch.float64), torch.randint(classes, (n,))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_maxout_by_hand(layers: int) -> None:
    model, (x, _) = lively("maxout", layers=layers), batch()
    hidden = x.reshape(5, -1)
    for layer in model.hidden:
        pieces = hidden @ layer.weight.T + layer.bias
        units = [torch.stack([pieces[:, p * 7 + u] for p in range(3)]) for u in range(7)]
        hidden = torch.stack([unit.amax(0) for unit in units], 1)
    torch.testing.assert_close(model(x), hidden @ model.linear.weight.T + model.linear.bias)


def test_rbf_by_hand_and_its_low_confidence() -> None:
    model, (x, _) = lively("rbf"), batch()
    beta = -torch.diag_embed(model.scales.square())
    away = x.reshape(5, 1, -1) - model.templates
    chance = torch.einsum("bki,kij,bkj->bk", away, beta, away).exp()
    torch.testing.assert_close(model.confidence(x), chance)
    torch.testing.assert_close(model(x), (chance / (1 - chance)).log())
    # far from all templates no class is likely, and the logits still have a gradient
    far = (x + 30).requires_grad_()
    logits = model(far)
    assert (model.confidence(far) < 1e-30).all()
    (gradient,) = torch.autograd.grad(logits.sum(), far)
    assert gradient.isfinite().all()
    assert gradient.any()
    template = model.templates[1].detach().view(1, *SHAPE)
    assert model(template).isfinite().all()
    assert model.confidence(template)[0, 1].item() == pytest.approx(1, abs=2e-6)


def test_quadratic_is_a_quadratic_form() -> None:
    model, (x, _) = lively("quadratic"), batch(6)
    first, last = model.hidden, model.linear
    form = torch.einsum("ku,ui,uj->kij", last.weight, first.weight, first.weight)
    flat = x.flatten(1)
    slope = 2 * torch.einsum("ku,u,ui->ki", last.weight, first.bias, first.weight)
    wanted = torch.einsum("bi,kij,bj->bk", flat, form, flat) + flat @ slope.T
    torch.testing.assert_close(model(x), wanted + last(first.bias.square()))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_an_ensemble_is_the_mean_of_its_members_probabilities(classes: int) -> None:
    model, (x, _) = lively("ensemble", classes), batch(classes=classes)
    mean = torch.stack([member(x).softmax(1) for member in model.members]).mean(0)
    torch.testing.assert_close(model(x), mean.log())
    torch.testing.assert_close(model(x).softmax(1), mean)


@pytest.mark.slow
def test_dropout_is_that_of_pylearn2_in_training_and_absent_otherwise() -> None:
    model = lively("maxout", input_dropout=0.25, dropout=0.0).train()
    seen: list[Tensor] = []
    model.hidden[0].register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    x = 0.5 + torch.rand(400, *SHAPE, dtype=torch.float64)
    model(x)
    kept = seen[0] != 0
    # what is kept is not enlarged
    torch.testing.assert_close(seen[0], x.reshape(seen[0].shape) * kept)
    assert kept.double().mean() == pytest.approx(0.75, abs=0.01)
    model.eval()(x)
    assert torch.equal(seen[1], x.reshape(seen[1].shape))

    units = lively("maxout", input_dropout=0.0, dropout=0.5)
    expected = units(x)
    passes = []
    with torch.random.fork_rng(devices=[]):
        units.train()
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            passes.append(units(x))
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])
    assert torch.equal(units.eval()(x), expected)
