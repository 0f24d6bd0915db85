"""Optimizers by name and by function, schedules against closed forms, averages, presets, ramps."""

import json
import math
from dataclasses import asdict
from functools import partial
from math import inf

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.models.zoo import find
from fastadv.runs.identity import describe
from fastadv.train import AWP, TRADES, FGSMTraining, Optimization, PGDTraining, Piecewise, Standard, fit
from fastadv.train._steps import MovingAverage
from fastadv.train.optim import find_rate, first_recipes, make_optimizer, make_schedule
from fastadv.train.presets import find_preset
from fastadv.train.schedules import SCHEDULES
from tests.refusals import refuses

from .nets import assert_same, images, net, run


def rates(schedule, steps, epochs=1, **options):
    options = Optimization(schedule=schedule, **options)
    optimizer = make_optimizer(nn.Linear(2, 2), "sgd", 0.1, options)
    scheduler, values = make_schedule(optimizer, options, epochs, steps), []
    for _ in range(steps * epochs):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.1] * 6),
        ("step", [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("cosine", [0.05 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]),
        ("piecewise", [0.1, 0.1, 0.1, 0.01, 0.01, 0.001]),
        (Piecewise((1 / 6, 5 / 6), 0.5), [0.1, 0.05, 0.05, 0.05, 0.05, 0.025]),
        (lambda done: 1 - done, [0.1 * (1 - k / 6) for k in range(6)]),
        ("cyclic", [0.1 * (0.04 + 0.96 * k / 2.4) for k in range(3)] + [k / 36 for k in (3, 2, 1)]),
        ("cyclic_half", [k / 30 for k in (0, 1, 2, 3, 2, 1)]),
    ],
)
def test_closed_forms(schedule, wanted):
    assert rates(schedule, 6) == pytest.approx(wanted)


def test_rate_and_momentum_cycle_as_those_of_torch():
    """Torch ends its cycle one step earlier, which over 400 steps is little."""
    steps, ours, theirs, rated = 400, [], [], {}
    for name in ("sgd", "adam"):
        options = Optimization(schedule="one_cycle_momentum", momentum=0.85)
        optimizer = make_optimizer(nn.Linear(2, 2), name, 0.1, options)
        scheduler = make_schedule(optimizer, options, 1, steps)
        peer = make_optimizer(nn.Linear(2, 2), name, 0.1, options)
        cycle = torch.optim.lr_scheduler.OneCycleLR(peer, 0.1, steps)
        for _ in range(steps):
            for moving, follows, kept in ((optimizer, scheduler, ours), (peer, cycle, theirs)):
                moving.step()
                group = moving.param_groups[0]
                rated.setdefault(moving, []).append(group["lr"])
                kept.append(group["momentum"] if name == "sgd" else group["betas"][0])
                follows.step()
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.1 * 4 / steps
    assert (ours[0], min(ours)) == pytest.approx((0.95, 0.85))
    assert max(abs(a - b) for a, b in zip(rated[optimizer], rated[peer], strict=True)) < 0.1 * 4 / steps
    assert rates("one_cycle", steps) == rated[optimizer]
    assert max(rated[optimizer]) == rated[optimizer][120] == pytest.approx(0.1)
    assert (rated[optimizer][0], SCHEDULES["one_cycle"](1.0)) == pytest.approx((0.1 / 25, 1 / 25e4))
    with pytest.raises(InputError, match="one that leaves the momentum alone, which Adagrad"):
        make_schedule(torch.optim.Adagrad(nn.Linear(1, 1).parameters()), options, 1, 2)


def test_by_epoch_the_rate_stays_for_an_epoch():
    assert rates("cosine", 3, 2, schedule_by="epoch") == pytest.approx([0.1] * 3 + [0.05] * 3)


def test_warm_up_rises_linearly_to_the_schedule():
    values, cosine = rates("cosine", 40, warm_up=0.25), rates("cosine", 40)
    for k in range(40):
        assert values[k] == pytest.approx(cosine[k] * min((k + 1) / 10, 1))
    options = {"epochs": 3, "batch_size": 10, "learning_rate": 0.3}
    options |= {"optimization": Optimization(warm_up=1.5, schedule="constant")}
    (first, *_, last) = fit(net(), images(), Standard(), **options)
    assert first.learning_rate == pytest.approx(0.3 * 5 / 7.5)
    assert last.learning_rate == 0.3


@pytest.mark.parametrize(("optimizer", "clip_norm"), [("sgd", 0.01), ("adam", 0.01), ("sgd", 1e6)])
def test_clipping_shortens_the_gradient_of_all_weights_together(clip_norm, optimizer):
    torch.manual_seed(0)  # Adam's first step turns a gradient near 0 into a sign, which rounding decides
    data, model = images(8), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    twin.load_state_dict(model.state_dict())
    options = Optimization(weight_decay=0.01, clip_norm=clip_norm)
    fit(model, data, Standard(), epochs=1, learning_rate=0.1, optimizer=optimizer, optimization=options)
    torch.nn.functional.cross_entropy(twin(data.x), data.y).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in twin.parameters()]).norm()
    for parameter in twin.parameters():
        parameter.grad *= min(1.0, clip_norm / norm)
    make_optimizer(twin, optimizer, 0.1, options).step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_gradients_that_frozen_weights_hold_do_not_count_and_stay():
    models = net(), net()
    for model in models:
        model[0].requires_grad_(False)
    models[0][0].weight.grad = torch.full_like(models[0][0].weight, 100.0)
    for model in models:
        fit(model, images(), Standard(), epochs=1, optimization=Optimization(clip_norm=0.1))
    assert_same(*models)
    assert (models[0][0].weight.grad == 100).all()


def test_the_momentum_of_batchnorm_is_that_asked_for_and_the_models_own_afterwards():
    model, other = net(), net()
    other[1].momentum = 0.01
    assert Optimization(batch_norm_momentum=1.0).batch_norm_momentum == 1.0
    optimization = Optimization(batch_norm_momentum=0.01)
    fit(model, images(), Standard(), epochs=1, optimization=optimization)
    fit(other, images(), Standard(), epochs=1)
    assert_same(model, other)
    assert model[1].momentum == 0.1
    with pytest.raises(InputError, match="batch_norm_momentum: expected a model with BatchNorm"):
        fit(nn.Linear(2, 2), images(), Standard(), epochs=1, optimization=optimization)


DECAY = 0.6
ATTACKS = {"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.05))}
equal = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.mark.slow
def test_it_is_the_weighted_mean_of_the_weights_after_each_batch(tmp_path):
    model, history = net(), []
    model[0].bias.requires_grad_(False)

    def note(done, total):
        history.append({name: value.double().clone() for name, value in model.state_dict().items()})

    start = {name: value.double() for name, value in model.state_dict().items()}
    options = {"optimization": Optimization(ema=DECAY), "progress": note}
    epochs = fa.train.epochs(model, images(), Standard(), epochs=2, batch_size=8, **options)
    reports, averaged = list(epochs), epochs.averaged()
    for name, weight in model.named_parameters():
        wanted = start[name]
        for n, state in enumerate(history, 1):
            decay = min(DECAY, (1 + n) / (10 + n))
            wanted = decay * wanted + (1 - decay) * state[name]
        torch.testing.assert_close(averaged[name].double(), wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(averaged[name], weight) == (not weight.requires_grad)
    for name, buffer in model.named_buffers():
        assert torch.equal(averaged[name], buffer)
    equal(model.state_dict(), {k: v.to(model.state_dict()[k]) for k, v in history[-1].items()})
    assert reports[0].ema_clean_accuracy is None


@pytest.mark.slow
def test_it_is_tested_and_kept_beside_the_model(tmp_path):
    test_set = images(40, seed=9)
    model, past = run(tmp_path, test_set=test_set, test_attacks=ATTACKS, ema=DECAY, epochs=2)
    averaged, about = fa.models.read_weights(tmp_path / "ema.safetensors")
    last, _ = fa.models.read_weights(tmp_path / "model.safetensors")
    equal(last, dict(model.state_dict()))
    assert not torch.equal(averaged["5.weight"], last["5.weight"])
    assert fa.train.report.best(past) is past[-1]
    equal(fa.models.read_weights(tmp_path / "best.safetensors")[0], averaged)
    twin = net()
    fa.models.load_weights(twin, tmp_path / "ema.safetensors")
    table = fa.evaluate(twin, test_set, ATTACKS)
    recalls = [float(table.correct[test_set.y == label].double().mean()) for label in range(3)]
    assert past[-1].ema_clean_accuracy == table.clean_accuracy
    assert past[-1].ema_worst_recall == pytest.approx(min(recalls))
    assert past[-1].ema_robust_accuracy == {"fgsm": table["fgsm"].robust_accuracy}
    assert (about["kind"], about["config"]["ema"]) == ("model", DECAY)
    assert about["config"]["recipe"] == describe(PGDTraining(fa.Linf(0.1), steps=2))
    assert about["measured"] == json.loads(json.dumps(asdict(past[-1]))) | {"weights": "ema"}


def test_weights_in_half_precision_are_averaged_in_single():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).bfloat16()
    average = MovingAverage(model, 0.999)
    before = model[1].weight.detach().float()
    with torch.no_grad():
        model[1].weight.add_(1.0)
    average.update(100_000)
    wanted = 0.999 * before + 0.001 * model[1].weight.float()
    torch.testing.assert_close(average.weights["1.weight"], wanted, rtol=1e-6, atol=1e-7)


PUBLISHED = {
    "wong2020": "cifar10/Linf/Wong2020Fast", "rice2020": "cifar10/Linf/Rice2020Overfitting",
    "gowal2020": "Gowal2020Uncovering_28_10_extra", "pang2022": "cifar10/Pang2022Robustness_WRN28_10",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_and_networks_are_those_of_robustbench(name):
    preset, entry = find_preset(name), find(PUBLISHED[name])
    assert (preset.clean, preset.robust) == (entry.clean, entry.robust)
    assert preset.model == entry.net.create
    assert preset.options | {"normalize": None} == entry.net.options | {"normalize": None}
    refuses("preset: expected one of wong2020", find_preset, name + "s")


def test_a_preset_is_measured_where_it_has_images():
    """By the screen, on the first 1,000 test images; all held-out images choose the best epoch."""
    preset, sets = find_preset("wong2020"), (images(3), images(4))
    training = preset.training(*sets)
    measuring = training.pop("measuring")
    assert (measuring.test_limit, measuring.validation_set) == (1000, sets[1])
    assert (training.pop("test_set"), training.pop("test_attacks")) == (sets[0], "screen")
    assert training == preset.training()
    assert preset.training(validation_set=sets[1])["measuring"] == measuring


def ramped(ramp, recipe, epochs):
    return first_recipes(Optimization(ramp=ramp), recipe, epochs)


def by_epoch(ramp, **options):
    recipe = PGDTraining(**{"threat": fa.Linf(0.3), "steps": 6, "step_size": 0.1, **options})
    first = ramped(ramp, recipe, 4)
    recipes = first + [recipe] * (4 - len(first))
    return [(round(recipe.threat.radius, 10), recipe.steps, recipe.step_size) for recipe in recipes]


def test_the_radius_grows_by_the_same_amount_and_the_step_size_with_it():
    assert [radius for radius, *_ in by_epoch(2)] == [0.1, 0.2, 0.3, 0.3]
    assert [radius for radius, *_ in by_epoch(0.75)] == [0.075, 0.15, 0.225, 0.3]
    assert by_epoch(0.7) == by_epoch(0.75)  # a share is that of the nearest number of epochs
    for ramp in (3, 2):
        for radius, steps, step_size in by_epoch(ramp):
            assert step_size * steps / radius == pytest.approx(0.1 * 6 / 0.3)
    assert {step_size for *_, step_size in by_epoch(2, step_size=None)} == {None}


@pytest.mark.slow
def test_the_first_epoch_is_that_of_the_smaller_radius():
    small, climbing = net(), net()
    options = {"epochs": 2, "batch_size": 25}
    recipe = PGDTraining(fa.Linf(0.2), steps=2, step_size=0.12)
    runs = (
        fa.train.epochs(climbing, images(), recipe, optimization=Optimization(ramp=1), **options),
        fa.train.epochs(small, images(), PGDTraining(fa.Linf(0.1), steps=2, step_size=0.06), **options),
    )
    assert len({next(training).loss for training in runs}) == 1
    assert torch.equal(small[5].weight, climbing[5].weight)
    assert next(runs[0]).loss > next(runs[1]).loss


def test_inside_other_recipes_and_for_every_recipe_with_a_threat():
    threat = fa.Linf(0.3)
    steps = fa.train.FastTraining(threat), fa.train.FreeTraining(threat, 2), AWP(PGDTraining(threat, 2, 0.1))
    for recipe in (FGSMTraining(threat), TRADES(threat, 2), *steps):
        first = ramped(2, recipe, 5)[0]
        inner = first.recipe if isinstance(first, AWP) else first
        assert type(first) is type(recipe)
        assert inner.threat.radius == pytest.approx(0.1)
    (first,) = ramped(1, AWP(PGDTraining(threat, 2, 0.1), gamma=0.02), 5)
    assert (first.gamma, first.recipe.step_size) == (0.02, 0.05)


def test_coordinates_are_counted():
    first, second = ramped(2, PGDTraining(fa.L0(10), steps=5, step_size=2), 5)
    assert (first.threat.radius, second.threat.radius) == (4, 7)
    assert (first.step_size, second.step_size) == (1.0, pytest.approx(4 / 3))
    for count in range(1, 12):
        steps = ramped(count, PGDTraining(fa.L0(3 * (count + 1)), steps=2), count + 1)
        assert [one.threat.radius for one in steps] == [3 * (k + 1) for k in range(count)]


FGSM, INFINITE = FGSMTraining(fa.Linf(0.1)), PGDTraining(fa.Linf(inf), 2, 0.1, random_start=False)
RECIPES = [
    ("ramp: expected from 1 epoch to fewer than all 2, got 2", 2, FGSM, 2),
    ("ramp: expected from 1 epoch to fewer than all 4, got 0", 0.1, FGSM, 4),
    ("threat of finite radius", 1, Standard(), 4),
    ("threat of finite radius", 1, lambda model, x, y: 0, 4),
    ("threat of finite radius", 1, INFINITE, 4),
]


@pytest.mark.parametrize(("word", "ramp", "recipe", "epochs"), RECIPES, ids=range(len(RECIPES)))
def test_what_cannot_climb_is_named(word, ramp, recipe, epochs):
    refuses(word, ramped, ramp, recipe, epochs)


RMSPROP = partial(torch.optim.RMSprop, lr=0.01)
OF_TORCH = {
    "sgd": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda w: torch.optim.Adam(w, 0.1, weight_decay=0.01),
    "adamw": lambda w: torch.optim.AdamW(w, 0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OF_TORCH)
def test_a_name_is_that_optimizer_of_torch(name):
    model, twin = net(), net()
    ours = make_optimizer(model, name, 0.1, Optimization(weight_decay=0.01))
    theirs = OF_TORCH[name](twin.parameters())
    assert find_rate(name, None) == (1e-3 if name.startswith("adam") else 0.05)
    for _ in range(3):
        for optimizer, trained in ((ours, model), (theirs, twin)):
            for k, weight in enumerate(trained.parameters()):
                weight.grad = weight.detach().sin() + k
            optimizer.step()
    assert_same(model, twin)


def test_groups_have_their_own_decay():
    model = nn.ModuleDict({"stem": nn.Linear(3, 4), "norm": nn.LayerNorm((2, 4))})
    model.update({"head": nn.Linear(4, 2), "bn": nn.BatchNorm1d(4)})
    model["head"].bias.requires_grad_(False)
    optimizer = make_optimizer(model, "adamw", 0.1, Optimization(weight_decay=0.01, norm_decay=False))
    names = {id(weight): name for name, weight in model.named_parameters()}
    met = {
        names[id(weight)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert met == {
        "stem.weight": (0.1, 0.01), "stem.bias": (0.1, 0.0), "norm.weight": (0.1, 0.0),
        "norm.bias": (0.1, 0.0), "head.weight": (0.1, 0.01), "bn.weight": (0.1, 0.0), "bn.bias": (0.1, 0.0),
    }  # fmt: skip


class Hoarder(torch.optim.SGD):
    kept = staticmethod(lambda weight: [weight])

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["hoard"] = self.kept(weight)


BAD = {
    "name": ("lion", "expected one of sgd, nesterov, adam, adamw"),
    "no optimizer": (lambda groups: groups, "returns a torch.optim.Optimizer.* got a list"),
    "its own weights": (lambda groups: torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), "others"),
    "closure": (lambda groups: torch.optim.LBFGS(groups), "closure"),
    "state": (partial(Hoarder, lr=0.1), "Hoarder with others"),
}


@pytest.mark.parametrize(("optimizer", "match"), BAD.values(), ids=BAD)
def test_what_cannot_train_or_be_kept_is_refused_before_the_first_step(optimizer, match, tmp_path):
    model, seen = net(), []
    with pytest.raises(InputError, match=f"optimizer: .*{match}"):
        fit(model, images(), Standard(), epochs=1, optimizer=optimizer, run_dir=tmp_path / "a",
            progress=lambda done, total: seen.append(done))  # fmt: skip
    assert not seen
    assert_same(model, net())


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"weight_decay": 0.1}], ids=str)
def test_options_that_a_function_has_itself_are_refused_beside_it(options):
    with pytest.raises(InputError, match=rf"{next(iter(options))}: expected it in the optimizer"):
        fit(net(), images(), Standard(), epochs=1, optimizer=RMSPROP, optimization=Optimization(**options))
    with pytest.raises(InputError, match="momentum: expected a number > 0 for 'nesterov'"):
        make_optimizer(net(), "nesterov", 0.1, Optimization(momentum=0))
    assert find_rate(RMSPROP, None) is None
