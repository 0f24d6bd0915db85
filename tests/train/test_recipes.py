"""Recipes: the losses they name, made on a twin, without a trace on the model."""

import copy
import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import (
    MART,
    TRADES,
    FastTraining,
    FGSMTraining,
    HiddenFGSM,
    InputNoise,
    PGDTraining,
    RubbishTraining,
    Standard,
    WeightDecayL1,
)
from fastadv.train.recipes import _common

from .nets import images, net

RECIPES = [
    Standard(),
    FGSMTraining(fa.Linf(0.1)),
    PGDTraining(fa.Linf(0.1), steps=3),
    PGDTraining(fa.L2(0.5), steps=2, random_start=False),
    TRADES(fa.Linf(0.1), steps=2),
    MART(fa.Linf(0.1), steps=2),
    FastTraining(fa.Linf(0.1)),
    FastTraining(fa.Linf(0.1), "n-fgsm"),
    InputNoise(fa.Linf(0.1)),
    WeightDecayL1(1e-3, PGDTraining(fa.Linf(0.1), steps=2)),
    HiddenFGSM("1", 0.1),
    RubbishTraining(FGSMTraining(fa.Linf(0.1))),
]


def batch(n=9):
    data = images(n)
    return data.x, data.y, torch.arange(n)


def flat_net(seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def test_standard_is_the_mean_cross_entropy():
    x, y, ids = batch()
    model = flat_net()
    assert torch.equal(Standard()(model, x, y, ids=ids), cross_entropy(model(x), y))


@pytest.mark.parametrize("recipe", [Standard, functools.partial(FGSMTraining, fa.Linf(0.1), 0.3)])
def test_a_yes_or_no_for_each_class(recipe):
    """loss="bce" is what is minimized and what the examples ascend."""
    x, y, ids = batch()
    model = flat_net()

    def loss(logits):
        right = torch.nn.functional.one_hot(y, 3)
        return -(right * logits.sigmoid().log() + (1 - right) * (-logits).sigmoid().log()).sum(1).mean()

    wanted = loss(model(x))
    if recipe is not Standard:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
        wanted = 0.3 * wanted + 0.7 * loss(model((x + 0.1 * gradient.sign()).clamp(0, 1)))
    made = recipe(loss="bce")(model, x, y, ids=ids)
    torch.testing.assert_close(made, wanted)
    assert recipe(loss="bce", label_smoothing=0.2)(model, x, y, ids=ids) != made
    for other in ("margin", "hinge", None):
        with pytest.raises(InputError, match="loss: expected one of ce, bce to train on"):
            recipe(loss=other)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_fgsm_training_is_goodfellows_objective_and_its_gradient(weight):
    """Loss and weight gradient against eager weight * J(x) + (1 - weight) * J(x + radius * sign(grad))."""
    x, y, ids = batch()
    model, radius = flat_net(), 0.1
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(leaf), y), leaf)
    x_adv = (x + radius * gradient.sign()).clamp(0, 1)
    wanted = weight * cross_entropy(model(x), y) + (1 - weight) * cross_entropy(model(x_adv), y)
    expected = torch.autograd.grad(wanted, list(model.parameters()))
    loss = FGSMTraining(fa.Linf(radius), weight)(model, x, y, ids=ids)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, list(model.parameters())), expected, rtol=1e-4, atol=1e-6
    )


def test_the_attack_follows_the_weights():
    """The examples of each batch are made with the weights of that moment."""
    x, y, ids = batch()
    model, fresh, recipe = flat_net(0), flat_net(1), FGSMTraining(fa.Linf(0.2), weight=0.0)
    before = recipe(model, x, y, ids=ids)
    model.load_state_dict(fresh.state_dict())
    assert torch.equal(recipe(model, x, y, ids=ids), recipe(fresh, x, y, ids=ids))
    assert not torch.equal(before, recipe(fresh, x, y, ids=ids))


class Tempered(nn.Module):
    """Python state that training may change: a number, a flag, an activation, values in a list and a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.last = nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
        self.center, self.sign, self.flipped, self.powers = 0.5, [1], False, {"power": 1}

    def forward(self, x):
        x = x.flatten(1).flip(1) if self.flipped else x.flatten(1)
        return self.last(self.activation(self.first(x - self.center)) ** self.powers["power"]) * self.sign[0]


CHANGES = {
    "number": lambda model: setattr(model, "center", -3.0),
    "flag": lambda model: setattr(model, "flipped", True),
    "activation": lambda model: setattr(model, "activation", nn.ReLU()),
    "parameter": lambda model: setattr(model.last, "weight", nn.Parameter(-model.last.weight.detach())),
    "list": lambda model: model.sign.__setitem__(0, -1),
    "dict": lambda model: model.powers.update(power=2),
    "hook": lambda model: model.first.register_forward_hook(lambda part, given, made: made.sin()),
    "forward": lambda model: setattr(model, "forward", lambda x: model.last(model.first(x.flatten(1)).cos())),
    "submodule": lambda model: model.add_module("last", nn.Linear(8, 3)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_attack_follows_what_changes_in_python(change):
    x, y, ids = batch()
    recipe = PGDTraining(fa.Linf(0.1), steps=3, random_start=False)
    model = Tempered()
    before = recipe(model, x, y, ids=ids)
    change(model)
    after = recipe(model, x, y, ids=ids)
    fresh = copy.deepcopy(model)
    if "forward" in vars(model):
        fresh.forward = lambda x: fresh.last(fresh.first(x.flatten(1)).cos())
    assert torch.equal(after, recipe(fresh, x, y, ids=ids))
    assert not torch.equal(after, before)


@pytest.mark.slow
def test_no_model_is_kept_alive():
    x, y, ids = batch()
    gone = []
    for recipe in RECIPES:
        model = net()
        recipe(model, x, y, ids=ids).backward()
        gone.append(weakref.ref(model))
    del model
    gc.collect()
    assert [model() for model in gone] == [None] * len(RECIPES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_models_are_attacked_with_their_present_weights():
    x, y, ids = batch()
    recipe = PGDTraining(fa.Linf(0.2), steps=3)
    plain = flat_net(0)
    model = torch.jit.script(flat_net(0))
    assert torch.equal(recipe(model, x, y, ids=ids), recipe(plain, x, y, ids=ids))
    for each in (model, plain):
        optimizer = torch.optim.SGD(each.parameters(), lr=5.0)
        for _ in range(3):
            optimizer.zero_grad()
            recipe(each, x, y, ids=ids).backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    torch.testing.assert_close(recipe(model, x, y, ids=ids), recipe(plain, x, y, ids=ids))


@pytest.mark.slow
def test_a_compiled_forward_leaves_statistics_to_training():
    x, y, ids = batch()
    model = net().train()
    model.forward = torch.compile(model.forward, backend="eager")
    plain = net().train()
    model[4].p = plain[4].p = 0.0
    recipe = PGDTraining(fa.Linf(0.1), steps=3)
    torch.testing.assert_close(recipe(model, x, y, ids=ids), recipe(plain, x, y, ids=ids))
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)


def test_pgd_raises_the_loss_inside_the_threat(monkeypatch):
    x, y, ids = batch(24)
    model, threat = flat_net(), fa.Linf(0.15)
    seen = {}

    def spy(frozen, x, *args, **kwargs):
        seen["x_adv"] = last_iterate(frozen, x, *args, **kwargs)
        return seen["x_adv"]

    last_iterate = _common.last_iterate
    monkeypatch.setattr(_common, "last_iterate", spy)
    clean = Standard()(model, x, y)
    fgsm = FGSMTraining(threat, weight=0.0)(model, x, y)
    pgd = PGDTraining(threat, steps=10)(model, x, y, ids=ids)
    assert clean < fgsm
    assert pgd > fgsm * 0.99  # a nearly linear loss: both reach about the same corner
    assert threat.contains(seen["x_adv"], x).all()


def adversarial(monkeypatch, recipe, model, x, y, ids):
    """The x_adv that a recipe trains on."""
    seen = []
    last_iterate = _common.last_iterate
    with monkeypatch.context() as patch:
        patch.setattr(_common, "last_iterate", lambda *a, **k: seen.append(last_iterate(*a, **k)) or seen[0])
        recipe(model, x, y, ids=ids)
    return seen[0]


@pytest.mark.parametrize("threat", [fa.L0(2), fa.L0(9), fa.L1(0.5), fa.L2(0.4), fa.Linf(0.05)])
@pytest.mark.parametrize(
    "make", [lambda threat: PGDTraining(threat, steps=7, random_start=False), FGSMTraining]
)
def test_every_norm_moves_every_image_to_the_edge_of_its_ball(make, threat, monkeypatch):
    x, y, ids = batch()
    model = flat_net()
    x_adv = adversarial(monkeypatch, make(threat), model, x, y, ids)
    assert threat.contains(x_adv, x).all()
    least = 0.01 if isinstance(threat, fa.L1) else 0.8
    assert (threat.distance(x_adv, x) >= least * threat.radius).all()
    before, after = (cross_entropy(model(each), y, reduction="none") for each in (x, x_adv))
    assert (after > before).all()


def test_the_settings_arrive(monkeypatch):
    x, y, ids = batch()
    seen = []
    last_iterate = _common.last_iterate
    monkeypatch.setattr(_common, "last_iterate", lambda *a, **k: seen.append(k) or last_iterate(*a, **k))
    threat = fa.L2(0.6)
    for random_start in (True, False):
        PGDTraining(threat, steps=4, random_start=random_start, loss="margin")(
            flat_net(), x, y, ids=ids + 5, seed=3
        )
        assert (seen[-1]["steps"], seen[-1]["loss"]) == (4, "margin")
        assert seen[-1]["step_size"] == pytest.approx(2.5 * 0.6 / 4)
        if random_start:
            assert torch.equal(seen[-1]["start"], threat.random_start(x, seed=3, ids=ids + 5))
        else:
            assert seen[-1]["start"] is None
    PGDTraining(threat, steps=4, step_size=0.07)(flat_net(), x, y)
    assert seen[-1]["step_size"] == 0.07
    FGSMTraining(threat)(flat_net(), x, y)
    assert (seen[-1]["steps"], seen[-1]["step_size"]) == (1, pytest.approx(0.6))


def test_an_infinite_radius_is_a_walk(monkeypatch):
    x, y, ids = batch()
    recipe = PGDTraining(fa.Linf(float("inf")), steps=3, step_size=0.01, random_start=False)
    x_adv = adversarial(monkeypatch, recipe, flat_net(), x, y, ids)
    torch.testing.assert_close((x_adv - x).abs().amax((1, 2, 3)), torch.full((9,), 0.03))


def test_random_start_is_keyed_by_seed_and_id_not_by_place():
    x, y, ids = batch(12)
    model = net().eval()
    recipe = PGDTraining(fa.Linf(0.1), steps=1, step_size=1e-4)
    one = recipe(model, x, y, ids=ids, seed=3)
    order = torch.tensor([5, 2, 0, 1, 3, 4, 11, 10, 9, 8, 7, 6])
    torch.testing.assert_close(
        recipe(model, x[order], y[order], ids=ids[order], seed=3), one, rtol=1e-5, atol=1e-7
    )
    assert not torch.equal(recipe(model, x, y, ids=ids, seed=4), one)
    halves = [recipe(model, x[part], y[part], ids=ids[part], seed=3) for part in (slice(0, 6), slice(6, 12))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_no_side_effects_of_the_attack(recipe):
    """Modes, gradients, flags, buffers (one BatchNorm update a training forward) and global randomness."""
    x, y, ids = batch()
    model = net().train()
    model[1].eval()  # a BatchNorm the caller has frozen
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    image, rng = x.clone(), torch.get_rng_state()
    model[4].p = 0.0  # the training forward itself would draw a dropout mask
    recipe(model, x, y, ids=ids)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all((parameter.grad == 7).all() for parameter in model.parameters())
    assert not model[0].weight.requires_grad
    assert model[5].weight.requires_grad
    assert torch.equal(image, x)
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize(
    ("recipe", "updates"),
    [(each, 2 if isinstance(each, TRADES | MART) else 1) for each in RECIPES],
    ids=[type(each).__name__ for each in RECIPES],
)
def test_batchnorm_counts_training_forwards_alone(recipe, updates):
    x, y, ids = batch()
    model = net().train()
    recipe(model, x, y, ids=ids)
    assert model[1].num_batches_tracked == updates


def test_pgd_training_mixes_in_the_clean_loss_by_its_weight():
    x, y, ids = batch()
    model = flat_net()
    clean, adversarial = (
        PGDTraining(fa.Linf(0.1), steps=2, weight=w)(model, x, y, ids=ids) for w in (1.0, 0.0)
    )
    torch.testing.assert_close(clean, Standard()(model, x, y))
    torch.testing.assert_close(
        PGDTraining(fa.Linf(0.1), steps=2, weight=0.25)(model, x, y, ids=ids),
        0.25 * clean + 0.75 * adversarial,
    )


@pytest.mark.parametrize("recipe", RECIPES[1:], ids=lambda recipe: type(recipe).__name__)
def test_the_attack_computes_no_weight_gradient(recipe):
    x, y, ids = batch()
    model = flat_net()
    calls = []
    model[1].weight.register_hook(lambda gradient: calls.append(1))
    loss = recipe(model, x, y, ids=ids)
    assert calls == []
    loss.backward()
    assert calls == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: FGSMTraining(fa.Linf(0.1), weight=1.1),
        lambda: FGSMTraining(0.1),
        lambda: PGDTraining(fa.Linf(0.1), steps=2, weight=-0.1),
        lambda: PGDTraining(fa.Linf(0.1), steps=0),
        lambda: PGDTraining(fa.Linf(0.1), steps=2, step_size=0.0),
        lambda: PGDTraining(fa.Linf(torch.tensor([0.1, 0.2])), steps=2),
        functools.partial(PGDTraining, fa.Linf(0.1), steps=2, step_size=float("nan")),
        lambda: FGSMTraining(fa.Linf(float("inf"))),
        lambda: PGDTraining(fa.Linf(float("inf")), steps=2, random_start=False),
        lambda: PGDTraining(fa.Linf(float("inf")), steps=2, step_size=0.1),
        lambda: PGDTraining(fa.L0(3), steps=2, step_size=0.5),
        lambda: PGDTraining(fa.Linf(0.1), steps=2, step_size="long"),
        lambda: PGDTraining(fa.Linf(0.1), steps=2.5),
        lambda: PGDTraining(fa.Linf(0.1), steps=2, weight=None),
    ],
)
def test_bad_settings(make):
    with pytest.raises(InputError, match="expected"):
        make()
