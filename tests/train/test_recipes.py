"""What holds for every recipe; FGSM and PGD training by hand; and the twin that is attacked."""

import dataclasses
import gc
import re
import weakref
from functools import partial
from itertools import cycle
from math import inf, nan

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import fastadv as fa
from fastadv import train
from fastadv.errors import InputError
from fastadv.train import FGSMTraining, PGDTraining, Standard
from fastadv.train.recipes import Crafted, base
from fastadv.train.recipes.base import innermost, owns_step
from tests.refusals import refuses
from tests.zoo.net import module

from .nets import images, net
from .recipes import hand

THREAT = fa.Linf(0.1)
LOSSES = {
    "standard": Standard(),
    "fgsm": FGSMTraining(THREAT),
    "pgd": PGDTraining(THREAT, steps=3),
    "pgd-l2": PGDTraining(fa.L2(0.5), steps=2, random_start=False),
    "pgd-worst": PGDTraining([THREAT, fa.L2(0.5)], steps=2),
    "trades": train.TRADES(THREAT, 2, 0.03),
    "mart": train.MART(THREAT, 2, 0.03),
    "rs": train.FastTraining(THREAT),
    "rs-l2": train.FastTraining(fa.L2(0.5), clamp_start=False),
    "n-fgsm": train.FastTraining(THREAT, "n-fgsm"),
    "score": train.SCORE(THREAT, 2),
    "gaussian": train.GaussianTraining(0.3),
    "smoothadv": train.SmoothAdv(fa.L2(0.5), 0.3, noises=3, steps=2),
    "consistency": train.Consistency(0.3, noises=3),
}
RECIPES = LOSSES | {
    "free": train.FreeTraining(THREAT, 2),
    "pgd-harder": PGDTraining([THREAT, fa.L2(0.5)], steps=2, choose="harder"),
    "awp": train.AWP(PGDTraining(THREAT, 2)),
    "aligned": train.Aligned(THREAT, steps=2),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def own(model, x, y, *, ids, seed, inner=LOSSES["pgd"]):
    """A recipe of one's own that crafts and trains as another one."""
    x_adv = train.craft(inner, model, x, y, ids=ids, seed=seed)
    return cross_entropy(model(x_adv), y)


class Own:
    def method(self, model, x, y, seed, ids):
        return own(model, x, y, ids=ids, seed=seed)

    def __call__(self, model, x, y, **keys):
        return own(model, x, y, **keys)


class Loss(nn.Module):
    def forward(self, model, x, y):
        return plain(model, x, y)


def plain(model, x, y, smoothing=0.0):
    return cross_entropy(model(x), y, label_smoothing=smoothing)


OWN = {  # each with the recipe that it is
    "keywords": (own, LOSSES["pgd"]),
    "method": (Own().method, LOSSES["pgd"]),
    "object": (Own(), LOSSES["pgd"]),
    "module": (Loss(), Standard()),
    "partial": (partial(own, inner=PGDTraining(THREAT, steps=1)), PGDTraining(THREAT, steps=1)),
    "neither": (plain, Standard()),
    "bound": (partial(plain, smoothing=0.2), Standard(label_smoothing=0.2)),
    "positions": (lambda net, images, labels: plain(net, images, labels), Standard()),
    "ids alone": (lambda model, x, y, ids: plain(model, x, y) + 0 * ids.sum(), Standard()),
    "AWP": (train.AWP(plain), train.AWP(Standard())),
}


@pytest.mark.parametrize("name", OWN)
def test_a_function_of_ones_own_is_trained_as_the_recipe_that_it_is(name):
    ends = []
    for recipe in OWN[name]:
        model = net()
        train.fit(model, images(20), recipe, epochs=2, batch_size=8, seed=3)
        ends.append(model.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_function_of_ones_own_says_by_its_criterion_what_labels_are():
    def entropy(model, x, y):
        return binary_cross_entropy_with_logits(model(x)[:, 0], y.float())

    entropy.criterion, ends = fa.attacks.Signs(), []
    data = images(20).x, torch.arange(20) % 2
    for recipe in (entropy, Standard(criterion=fa.attacks.Signs())):
        model = nn.Sequential(flat_net(), nn.Linear(3, 1))
        nn.init.ones_(model[1].weight), nn.init.zeros_(model[1].bias)
        train.fit(model, data, recipe, epochs=2, batch_size=8)
        ends.append(model.state_dict())
    torch.testing.assert_close(*ends)


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


def loss_of(recipe, model, x, y, ids=None, seed=0):
    ids = torch.arange(len(x)) if ids is None else ids
    if owns_step(recipe):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return recipe.step(
            train.Step(model=model, optimizer=optimizer, x=x, y=y, ids=ids, seed=seed, epoch=1)
        )
    return recipe(model, x, y, ids=ids, seed=seed)


PER_SAMPLE, INFINITE = fa.Linf(torch.tensor([0.1, 0.2])), fa.Linf(inf)
WRONG = {
    "threat": [0.1, PER_SAMPLE], "steps": [0, 2.5], "replays": [0, 2.0], "step_size": [0.0, nan, "long"],
    "weight": [-0.1, None, "much"], "label_smoothing": [-0.1, 1.0], "beta": [-1.0, nan], "gamma": [0.0, nan],
    "noise": [-1.0], "method": ["fgsm"], "start": ["far", True],
    "clamp_start": [1, None], "sigma": [0.0, -0.5, nan, inf, None], "noises": [0, 2.0],
    "entropy": [-0.1, nan], "to": ["text", None],
    "recipe": ["pgd", train.FreeTraining(THREAT, 2), train.AWP(Standard())],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_settings_outside_their_ranges_are_named(name):
    recipe = RECIPES[name]
    for field in dataclasses.fields(recipe):
        for value in WRONG.get(field.name, []):
            refuses(f"{field.name}: expected", dataclasses.replace, recipe, **{field.name: value})
    if hasattr(recipe, "threat"):  # it begins or steps in units of the radius
        alone = {"step_size": None} if hasattr(recipe, "step_size") else {}
        refuses(r"(radius|step_size): expected", dataclasses.replace, recipe, threat=INFINITE, **alone)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("weight", lambda: FGSMTraining(THREAT, weight=1.1)),
        ("weight", lambda: PGDTraining(THREAT, 2, weight=1.1)),
        ("loss", lambda: Standard(loss="hinge")),
        ("noise", lambda: train.FastTraining(THREAT, noise=1.5)),
        ("radius", lambda: PGDTraining(INFINITE, steps=2, step_size=0.1)),
        ("step_size", lambda: PGDTraining(fa.L0(3), steps=2, step_size=0.5)),
        ("threat", lambda: train.SmoothAdv(THREAT, 0.3)),
        ("noises", lambda: train.Consistency(0.3, noises=1)),
    ],
    ids=range(8),
)
def test_settings_that_one_recipe_refuses(field, make):
    refuses(f"{field}: expected", make)


@pytest.mark.parametrize("name", [name for name in RECIPES if hasattr(innermost(RECIPES[name]), "threat")])
def test_images_outside_the_box_are_refused_as_by_attacks(name, monkeypatch):
    (x, y, _), recipe, model = batch(), RECIPES[name], nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    y = y.clamp(max=1)
    call = lambda x: loss_of(recipe, model, x, y)  # noqa: E731
    calls = [call, lambda x: train.craft(recipe, model, x, y)]
    for wrong in (4 * x - 2, x.clone().fill_(nan), (255 * x).to(torch.int16)):
        with pytest.raises(InputError) as error:
            fa.attacks.pgd(model, wrong, y, THREAT)
        for refused in calls[: 1 + isinstance(innermost(recipe), Crafted)]:
            refuses("^" + re.escape(str(error.value)), refused, wrong)
    call(x)
    with pytest.raises(InputError):  # on a CPU each batch is read
        call(4 * x - 2)
    monkeypatch.setattr(base, "waits", lambda device: True)  # as of a GPU: the first batch alone is read
    call(4 * x - 2)


@every_loss
def test_no_side_effects_of_the_attack(name):
    """On modes, weight gradients, flags, buffers (one BatchNorm update a forward) and global randomness."""
    x, y, ids = batch()
    model = net().train()
    model[1].eval()  # a BatchNorm the caller has frozen
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    image, rng, passes = x.clone(), torch.get_rng_state(), []
    model[4].p = 0.0  # the training forward itself would draw a dropout mask
    model[5].weight.register_hook(lambda gradient: passes.append(1))
    loss = LOSSES[name](model, x, y, ids=ids)
    assert passes == []
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all((parameter.grad == 7).all() for parameter in model.parameters())
    assert not model[0].weight.requires_grad
    assert model[5].weight.requires_grad
    assert torch.equal(image, x)
    assert torch.equal(rng, torch.get_rng_state())
    loss.backward()
    assert passes == [1]


@pytest.mark.slow
def test_no_model_is_kept_alive():
    gone = []
    for recipe in RECIPES.values():
        model = net()
        train.fit(model, batch()[:2], recipe, epochs=1)
        gone.append(weakref.ref(model))
    del model
    gc.collect()
    assert [model() for model in gone] == [None] * len(RECIPES)


def entropy(logits, y, targets):
    assert targets is None
    return cross_entropy(logits, y, reduction="none")


def sigmoids(logits, y, targets):
    right = one_hot(y, 3)
    return -(right * logits.sigmoid().log() + (1 - right) * (-logits).sigmoid().log()).sum(1)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if hasattr(recipe, "loss")])
def test_a_loss_of_ones_own_is_trained_or_refused(name):
    x, y, _ = batch()
    own = partial(dataclasses.replace, RECIPES[name])
    if name in ("mart", "score", "aligned"):
        return refuses("loss: expected none for .*leave it out", own, loss=entropy)
    of = lambda loss: loss_of(own(loss=loss), flat_net(), x, y)  # noqa: E731
    for known, function in (("ce", entropy), ("bce", sigmoids)):
        torch.testing.assert_close(of(known), of(function))
    assert of(lambda *given: 10 * entropy(*given)) > 2 * of(entropy)
    refuses("'margin'", own, loss="margin")
    refuses("do not average", of, lambda *given: entropy(*given).mean())
    refuses("loss: expected a differentiable function", of, lambda *given: entropy(*given).detach())
    if hasattr(RECIPES[name], "label_smoothing"):
        refuses("label_smoothing: expected 0", own, loss=entropy, label_smoothing=0.1)
        assert loss_of(own(loss="bce", label_smoothing=0.2), flat_net(), x, y) != of("bce")


def test_an_attack_ascends_what_is_trained_unless_told_otherwise():
    (x, y, ids), own = batch(), lambda z, y, _: -z[:, 0]
    recipes = (PGDTraining(THREAT, 2, **given) for given in ({"loss": own}, {"attack_loss": own}, {}))
    ours, told, by_default = (train.craft(one, flat_net(), x, y, ids=ids, seed=0) for one in recipes)
    assert torch.equal(ours, told)
    assert not torch.equal(ours, by_default)


@pytest.mark.parametrize("name", RECIPES)
def test_integers_of_any_width_are_labels(name):
    (x, y, _), recipe = batch(), RECIPES[name]
    wanted = loss_of(recipe, flat_net(), x, y)
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16):
        assert torch.equal(loss_of(recipe, flat_net(), x, y.to(dtype)), wanted)
        if isinstance(innermost(recipe), Crafted):
            train.craft(recipe, flat_net(), x, y.to(dtype))
    if name != "aligned":
        refuses("y: expected one integer", loss_of, recipe, flat_net(), x, y.float())


def second(size):
    """A net that holds its second input, for batches of one size."""
    rest = torch.rand(size, 3)
    return module(lambda self, x: self.net(torch.cat([x.flatten(1), rest], 1)), net=nn.Linear(67, 3))


COPIES = {"pgd": 18, "fgsm": 18, "smoothadv": 27, "consistency": 27}


@pytest.mark.parametrize("name", COPIES)
def test_a_joined_batch_is_told_to_a_model_of_two_inputs(name):
    (x, y, _), recipe = batch(), LOSSES[name]
    recipe = dataclasses.replace(recipe, weight=0.5) if name == "pgd" else recipe
    advice = "one for all images or for a batch of that size, or join it to the image"
    said = f"takes the joined batch of this recipe, {COPIES[name]} images of 9 samples, .*, {advice}"
    refuses(said, recipe, second(9), x, y)
    refuses(said, train.fit, second(9), (x, y), recipe, epochs=1, batch_size=9)
    with pytest.raises(RuntimeError, match="Sizes of tensors"):  # it is not that they are joined
        recipe(second(8), x, y)
    for alone in (Standard(), LOSSES["pgd"], LOSSES["trades"]):  # the advice works
        assert len(train.fit(second(9), (x, y), alone, epochs=2, batch_size=9)) == 2
    refuses(advice, train.fit, nn.Bilinear(64, 3, 3), (x, y), Standard(), epochs=1)
    refuses(advice, LOSSES["pgd"], nn.Bilinear(64, 3, 3), x, y)


STEP = 2.5 * 0.1 / 4
# a recipe, its steps and their size, the length of its start, and how far it may lead
BY_HAND = [
    *((FGSMTraining(THREAT, weight), 1, 0.1, 0.0, 0.1) for weight in (0.0, 0.3, 1.0)),
    (PGDTraining(THREAT, 4), 4, STEP, 0.1, 0.1),
    (PGDTraining(THREAT, 4, random_start=False, weight=0.3), 4, STEP, 0.0, 0.1),
    (PGDTraining(THREAT, 4, 0.03, attack_loss="margin", label_smoothing=0.2), 4, 0.03, 0.1, 0.1),
    (train.FastTraining(THREAT), 1, 0.125, 0.1, 0.1),
    (train.FastTraining(THREAT, noise=0.5, step_size=0.1, label_smoothing=0.2), 1, 0.1, 0.05, 0.1),
    (train.FastTraining(THREAT, "n-fgsm"), 1, 0.1, 0.2, 9.0),
    (train.FastTraining(THREAT, "n-fgsm", noise=3.0, step_size=0.2), 1, 0.2, 0.3, 9.0),
]


@pytest.mark.parametrize(("recipe", "steps", "step_size", "noise", "far"), BY_HAND)
def test_examples_and_the_mixture_with_clean_images_by_hand(recipe, steps, step_size, noise, far):
    x, y, ids = hand.batch()
    model, by_hand, weight = hand.warm_net(), hand.warm_net(), getattr(recipe, "weight", 0.0)

    def loss(logits):
        if getattr(recipe, "attack_loss", None) == "margin":
            return logits.masked_fill(one_hot(y, 3).bool(), -inf).amax(1) - hand.at_label(logits, y)
        return cross_entropy(logits, y, reduction="none")

    start = fa.Linf(noise).random_start(x, seed=hand.SEED, ids=ids) if noise else x
    x_adv = hand.ascend(model, x, loss, start, steps, step_size, far)
    crafted = recipe.craft(model, x, y, ids=ids, seed=hand.SEED)
    torch.testing.assert_close(crafted, x_adv, rtol=0, atol=1e-6)  # the start is drawn in float32
    *clean, adversarial = by_hand(torch.cat([x] * (weight > 0) + [crafted])).tensor_split(1 + (weight > 0))
    wanted = cross_entropy(adversarial, y, label_smoothing=recipe.label_smoothing)
    if clean:
        wanted = weight * cross_entropy(clean[0], y) + (1 - weight) * wanted
    hand.assert_same_step(recipe, model, by_hand, wanted)


FORMS = {
    "tuple": lambda z: (z, z),
    "images": lambda z: z[..., None, None],
    "fewer": lambda z: z[:, :2],
    "none": lambda z: None,
}


@pytest.mark.slow
def test_an_output_that_is_no_logits_in_training_mode_is_refused_in_words():
    kinds = "floating (logits|outputs)|embeddings|at least two classes|a class for each label"
    for recipe, form in zip(RECIPES.values(), cycle(FORMS.values()), strict=False):
        forward = lambda self, x, form=form: form(self.inner(x)) if self.training else self.inner(x)  # noqa: E731
        model = module(forward, inner=flat_net())
        refuses(f"model: expected ({kinds})", train.fit, model, images(9), recipe, epochs=1)


LENGTHS = {
    "trades": (train.TRADES(THREAT, 4), STEP),
    "mart": (train.MART(THREAT, 4), STEP),
    "score": (train.SCORE(THREAT, 4), STEP),
    "smoothadv": (train.SmoothAdv(fa.L2(0.5), 0.3, steps=4), 2 * 0.5 / 4),
    "free": (train.FreeTraining(THREAT, 2), 0.1),
    "aligned": (train.Aligned(THREAT, steps=4), STEP),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_step_that_is_not_given_has_the_length_that_the_recipe_says(name):
    recipe, length = LENGTHS[name]

    def loss(step_size):
        sized, model = dataclasses.replace(recipe, step_size=step_size), hand.warm_net()
        if callable(sized):
            x, y, ids = hand.batch()
            return sized(model, x, y, ids=ids, seed=hand.SEED)
        return sized.step(hand.step_at(model))

    torch.testing.assert_close(loss(None), loss(length))
    assert (loss(None) - loss(0.8 * length)).abs() > 1e-5
