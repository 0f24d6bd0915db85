"""torchattacks' calls with our attacks, and its attacks by our calls."""

import inspect
from functools import partial
from math import inf

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.adapters import torchattacks
from fastadv.adapters.foreign import Foreign
from fastadv.attacks import Status
from fastadv.engine import Plain
from tests.adapters.nets import problem

EPS, ALPHA = 0.05, 0.02
# short enough for a test; the others are short by default
SHORT = {
    "Square": {"n_queries": 20},
    "AutoAttack": {"version": "quick"},
    "SPSA": {"nb_sample": 8, "nb_iter": 3, "lr": 0.03},
    "EADL1": {"max_iterations": 20, "binary_search_steps": 2, "initial_const": 10.0},
}
MINIMUM = {"CW", "DeepFool", "EADL1"}
LEAVE = {*MINIMUM, "APGD", "APGDT", "FAB", "Square", "AutoAttack"}  # what is wrong already


def call(name: str, model: nn.Module, **options):
    parameters = inspect.signature(getattr(torchattacks, name)).parameters
    sized = {"eps": EPS} if "eps" in parameters else {}
    classes = {"n_classes": 5} if "n_classes" in parameters else {}
    return getattr(torchattacks, name)(model, **(sized | classes | SHORT.get(name, {}) | options))


@pytest.mark.parametrize("name", sorted(torchattacks.SERVED))
@pytest.mark.slow
def test_every_class_breaks_images_inside_its_budget(name):
    model, x, y = problem()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    atk = call(name, model)
    adv = atk(x, y)
    assert adv.shape == x.shape
    assert adv.min() >= 0
    assert adv.max() <= 1
    if name not in MINIMUM:
        order = 2 if name == "PGDL2" else inf
        assert (adv - x).flatten(1).norm(order, dim=1).max() <= EPS * (1 + 1e-6)
    assert (atk.result.status == Status.BROKEN).sum() >= 2
    assert atk.result.status[-1] == Status.ALREADY_WRONG
    assert torch.equal(adv[-1], x[-1]) == (name in LEAVE)
    assert (adv != x).flatten(1).any(1)[:-1].sum() >= 2
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_pgd_is_ours_with_the_same_steps():
    model, x, y = problem()
    atk = torchattacks.PGD(model, EPS, ALPHA, 3, random_start=False)
    options = {"random_start": False, "loss": "ce", "stop_early": False}
    ours = partial(fa.attacks.pgd, steps=3, step_size=ALPHA, **options)
    right = slice(0, -1)  # the last is wrong already, and moves all the same
    assert torch.equal(atk(x, y)[right], ours(model, x, y, fa.Linf(EPS)).x_adv[right])
    loss = nn.functional.cross_entropy
    assert loss(model.eval()(atk(x, y)[-1:]), y[-1:]) > loss(model(x[-1:]), y[-1:]) + 0.02
    atk.eps = EPS / 2
    assert torch.equal(atk(x, y)[right], ours(model, x, y, fa.Linf(EPS / 2)).x_adv[right])


def test_random_draws_follow_torch():
    model, x, y = problem()
    atk = torchattacks.PGD(model, EPS, ALPHA, steps=1)
    torch.manual_seed(1)
    first, second = atk(x, y), atk(x, y)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(atk(x, y), first)


def test_targets():
    model, x, y = problem()
    clean = model.eval()(x).detach()
    atk = torchattacks.PGD(model, 0.5, 0.1, steps=10)
    atk.set_mode_targeted_by_label(quiet=True)
    wanted = (y + 1) % 5
    reached = model(atk(x, wanted)).argmax(1) == wanted
    assert reached.sum() > len(x) // 2
    assert torch.equal(reached, atk.result.success)
    atk.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 5)
    assert (model(atk(x, y)).argmax(1) == wanted).sum() > len(x) // 2
    atk.set_mode_targeted_by_function(lambda images, labels: model(images).argmin(1))
    assert torch.equal(model(atk(x, y)).argmax(1) == clean.argmin(1), atk.result.success)
    atk.set_mode_default()
    assert (model(atk(x, y)).argmax(1) != y).sum() > len(x) // 2


def test_normalized_images():
    model, x, y = problem(channels=3)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    place = fa.models.Normalized(nn.Identity(), mean, std)
    atk = torchattacks.BIM(model, EPS, ALPHA, 3)
    atk.set_normalization_used(mean=mean, std=std)
    back = atk(place(x), y) * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    assert (back - x).abs().max() <= EPS + 1e-6
    assert (back - x).abs().max() > EPS / 2


def test_what_is_refused():
    model, x, y = problem()
    for call, error, says in (
        (lambda: torchattacks.OnePixel, fa.InputError, r"torchattacks\.OnePixel.*sparse_rs"),
        (lambda: torchattacks.Nothing, AttributeError, "Nothing"),
        (lambda: torchattacks.PGD(model, iters=3), TypeError, "iters"),
        (lambda: torchattacks.FGSM(model)(x * 2, y), fa.InputError, "box"),
        (lambda: torchattacks.FGSM(model).set_model_training_mode(True), fa.InputError, "eval mode"),
    ):
        with pytest.raises(error, match=says):
            call()


# Any class of theirs is a function of the model, which then takes images and labels.


class Shifted:
    """An attack in their form, which prints its results nowhere and moves all pixels by so much."""

    supported_mode = ("default",)

    def __init__(self, model, eps=0.3, share=1.0, spoiled=0):
        self.model, self.by, self.spoiled = model, eps * share, spoiled

    def __call__(self, images, labels):
        assert not self.model.training
        self.model.train()
        images = images.requires_grad_()
        self.model(images).gather(1, labels[:, None]).sum().backward()
        out = (images - self.by * images.grad.sign()).clamp(0, 1).detach()
        out[: self.spoiled] = torch.nan
        return out


def test_their_points_are_judged_and_counted():
    model, x, y = problem()
    out = torchattacks.wrap(Shifted)(model, x, y, fa.Linf(EPS))
    assert torch.equal(model.eval()(out.x_adv).argmax(1) != y, out.success)
    assert (out.status == Status.BROKEN).any()
    assert out.distance[out.status == Status.BROKEN].max() <= EPS * (1 + 1e-6)
    none = Foreign(lambda kind, model, x, *rest: x, torch.rand)(Plain(model), x, y, fa.Linf(EPS))
    # one pass of those that are right, forward and back, beside the verdicts
    assert (out.forwards - none.forwards, out.backwards) == (len(x) - 1, len(x) - 1)
    assert out.flags == ()
    assert all(value.grad is None for value in model.parameters())


def test_points_outside_the_threat_are_not_successes():
    model, x, y = problem()
    out = torchattacks.wrap(Shifted, share=1.1)(model, x, y, fa.Linf(EPS))
    assert not (out.status == Status.BROKEN).any()
    (outside,) = out.flags
    assert outside.startswith(f"outside: {len(x) - 1} of {len(x)} points lie outside of L∞ ")
    out = torchattacks.wrap(Shifted, spoiled=3)(model, x, y, fa.Linf(EPS))
    assert out.status[:3].tolist() == [Status.FAILED] * 3
    (failed,) = out.flags
    assert failed.startswith("failed: the attack met NaN or infinity on 3 of ")
    for threat, targets, says in (
        (fa.Linf(torch.full((len(x),), EPS)), None, "one radius"),
        (fa.Linf(EPS, box=(0, 2)), None, "box"),
        (fa.Linf(EPS), (y + 1) % 5, "targets"),
    ):
        with pytest.raises(fa.InputError, match=says):
            torchattacks.wrap(Shifted)(model, x, y, threat, targets=targets)


def test_foreign_draws_leave_the_generator_and_follow_the_seed():
    model, x, y = problem()

    def noise(kind, model, x, *rest):
        return (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)

    attack, state = Foreign(noise, torch.rand), torch.get_rng_state()
    first, same, other = (attack(model, x, y, fa.Linf(EPS), seed=seed).x_adv for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# Tests with the real package.


@pytest.fixture
def real():
    return pytest.importorskip("torchattacks", reason="torchattacks is not installed")


@pytest.mark.slow
def test_names_arguments_and_defaults_are_theirs(real):
    assert {*real.__all__} == {*torchattacks.SERVED, *torchattacks.INSTEAD}
    for name in torchattacks.SERVED:
        theirs, ours = (inspect.signature(getattr(one, name)).parameters for one in (real, torchattacks))
        assert [(k, p.default) for k, p in ours.items()] == [(k, p.default) for k, p in theirs.items()], name


@pytest.mark.parametrize("weights", [torch.float64, torch.bfloat16])
def test_theirs_sees_images_as_the_model_is_judged_on_them(weights: torch.dtype) -> None:
    model, x, y = problem()

    def sign(kind, net, x, y, threat, targets):
        points = x.requires_grad_()
        loss = nn.functional.cross_entropy(net(points), y)
        return (x + EPS * torch.autograd.grad(loss, points)[0].sign()).clamp(0, 1).detach()

    out = Foreign(sign, torch.rand)(model.to(weights), x, y, fa.Linf(EPS))
    assert (out.status == Status.BROKEN).sum() >= 2
    with torch.no_grad():
        assert torch.equal(model.eval()(out.x_adv.to(weights)).argmax(1) != y, out.success)
