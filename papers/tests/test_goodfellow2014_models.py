"""The networks of Goodfellow et al. 2014 by hand, and that run folders know them by their old names."""

import pytest
import torch

import fastadv as fa
from papers.goodfellow2014.models import RBF, Ensemble, Maxout, Quadratic, maxout_sigmoids
from papers.goodfellow2014.plan import SCALES, plans

SHAPE = (2, 11, 10)
X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1)).double()


def lively(model):
    """In float64, with weights large enough for its logits to differ."""
    for weight in model.double().eval().parameters():
        weight.data.normal_(0, 2 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1)
    return model


@pytest.mark.parametrize("layers", [1, 3])
def test_maxout_by_hand(layers):
    model, hidden = lively(Maxout(SHAPE, 3, units=7, pieces=3, layers=layers)), X.reshape(5, -1)
    for layer in model.hidden:
        pieces = hidden @ layer.weight.T + layer.bias
        units = [torch.stack([pieces[:, p * 7 + u] for p in range(3)]) for u in range(7)]
        hidden = torch.stack([unit.amax(0) for unit in units], 1)
    torch.testing.assert_close(model(X), hidden @ model.linear.weight.T + model.linear.bias)


def test_rbf_by_hand_and_its_low_confidence():
    model = RBF(SHAPE, 3).double().eval()
    beta = -torch.diag_embed(model.scales.square())
    away = X.reshape(5, 1, -1) - model.templates
    chance = torch.einsum("bki,kij,bkj->bk", away, beta, away).exp()
    torch.testing.assert_close(model.confidence(X), chance)
    torch.testing.assert_close(model(X), (chance / (1 - chance)).log())
    # far from all templates no class is likely, and the logits still have a gradient
    far = (X + 30).requires_grad_()
    (gradient,) = torch.autograd.grad(model(far).sum(), far)
    assert (model.confidence(far) < 1e-30).all()
    assert gradient.isfinite().all()
    assert gradient.any()
    template = model.templates[1].detach().view(1, *SHAPE)
    assert model(template).isfinite().all()
    assert model.confidence(template)[0, 1].item() == pytest.approx(1, abs=2e-6)


def test_quadratic_is_a_quadratic_form():
    model = Quadratic(SHAPE, 3, units=5).double()
    first, last, flat = model.hidden, model.linear, X.flatten(1)
    form = torch.einsum("ku,ui,uj->kij", last.weight, first.weight, first.weight)
    slope = 2 * torch.einsum("ku,u,ui->ki", last.weight, first.bias, first.weight)
    wanted = torch.einsum("bi,kij,bj->bk", flat, form, flat) + flat @ slope.T
    torch.testing.assert_close(model(X), wanted + last(first.bias.square()))


def test_an_ensemble_is_the_mean_of_its_members_probabilities():
    model = lively(Ensemble(Maxout(SHAPE, 3, units=7, seed=seed) for seed in range(3)))
    mean = torch.stack([member(X).softmax(1) for member in model.members]).mean(0)
    torch.testing.assert_close(model(X), mean.log())


def test_dropout_of_inputs_is_that_of_pylearn2():
    """What is kept is not enlarged, in training or afterwards."""
    model, seen = lively(Maxout(SHAPE, 3, units=7, input_dropout=0.25, dropout=0.0)).train(), []
    model.hidden[0].register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    x = 0.5 + torch.rand(400, *SHAPE).double()
    model(x)
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0], x.reshape(seen[0].shape) * kept)
    assert kept.double().mean() == pytest.approx(0.75, abs=0.01)
    model.eval()(x)
    assert torch.equal(seen[1], x.reshape(seen[1].shape))


@pytest.mark.slow
def test_a_run_folder_of_before_is_this_run(tmp_path):
    """Networks and recipes keep the names that `fastadv study` gave them."""
    digits, found = fa.data.load("digits", "train", limit=20), plans(SCALES["tiny"])
    for name, make in {"hidden_first": Maxout, "sigmoids": maxout_sigmoids, "rbf": RBF}.items():
        model = make(digits.shape, 10, **found[name].options)
        fa.train.fit(model, digits, found[name].recipe, epochs=1, run_dir=tmp_path / name)
        told = fa.models.read_weights(tmp_path / name / "model.safetensors")[1]["config"]
        assert (told["model"].split()[0], told["recipe"]["name"]) == KNOWN[name]


KNOWN = {
    "hidden_first": ("Maxout", "HiddenFGSM"),
    "sigmoids": ("Sigmoids", "Standard"),
    "rbf": ("RBF", "Standard"),
}
