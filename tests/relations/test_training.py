"""The same training asked for in two ways has one answer: every recipe, `universal`, the constructions."""

from copy import deepcopy
from functools import partial
from itertools import cycle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from fastadv import rng
from fastadv.data import construct
from fastadv.train.recipes.base import owns_step
from tests.data.sets import ALL, toy_base, toy_model
from tests.train.nets import assert_same, grouped, images, net, stopped, timeless, viewed
from tests.train.recipes import hand
from tests.train.test_recipes import LOSSES, RECIPES, THREAT, flat_net

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
OF_CLASSES = {name: recipe for name, recipe in RECIPES.items() if name != "robust_logistic"}
every_recipe = pytest.mark.parametrize("name", OF_CLASSES)
HIDDEN = {"hidden": "5"}  # the module of `net`, where `flat_net` has "1"
ATTACKS = {"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.02))}


def recipe_of(name):
    recipe = OF_CLASSES[name]
    return type(recipe)(HIDDEN[name], recipe.radius) if name in HIDDEN else recipe


def trained(recipe, data=None, call=fa.train.fit, **options):
    """The net after two epochs of three batches, and its reports."""
    model = options.pop("model", None) or net()
    settings = {"epochs": 2, "batch_size": 8, "seed": 3} | options
    return model, [*call(model, images(20) if data is None else data, recipe, **grouped(**settings))]


RMSPROP = partial(torch.optim.RMSprop, lr=0.01)
OPTIONS = [  # every recipe meets some of them
    {"optimizer": "adam", "ema": 0.8, "augment": "shift"},
    {"optimizer": RMSPROP, "norm_decay": False, "clip_norm": 0.5},
    {"precision": "bf16", "schedule": "one_cycle_momentum", "warm_up": 1},
    {"max_norm": 0.5, "augment": "crop_flip"},
    {"optimizer": "nesterov", "schedule": "cosine", "drop_last": True, "batch_size": 6},
]
CASES = dict(zip(OF_CLASSES, cycle(OPTIONS), strict=False))


@every_recipe
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(name, tmp_path):
    run = partial(trained, recipe_of(name), **CASES[name])
    whole, past = run()
    stopped(5, run, run_dir=tmp_path, checkpoint_every=2)
    model, rest = run(run_dir=tmp_path, resume=True, checkpoint_every=2)
    assert_same(model, whole)
    assert timeless(fa.train.reports(tmp_path)) == timeless(past)
    assert timeless(rest) == timeless(past)[1:]


RGB = images(20).x.repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.6, 0.3])[:, None, None]
SEVERAL = [fa.train.PGDTraining([THREAT, fa.L2(0.5)], 2, choose=one) for one in ("random", "mean")]
HAT = fa.train.HAT(THREAT, helper=viewed(), steps=2)
HELD = OF_CLASSES | {"random": SEVERAL[0], "mean": SEVERAL[1], "hat": HAT}


@pytest.mark.parametrize("name", [name for name in HELD if name not in HIDDEN])
def test_a_buffer_that_no_state_dict_has_is_resumed_and_view_works(name, tmp_path):
    keyed = {"recipe": HELD[name], "data": (RGB, images(20).y), "ema": 0.9}
    whole, past = trained(model=viewed(), **keyed)
    of_epoch = trained(call=one_epoch, model=viewed(), **keyed, run_dir=tmp_path / "epoch")[0]
    stopped(5, trained, model=viewed(), **keyed, run_dir=tmp_path / "step")
    for kind, model in (("epoch", of_epoch), ("step", viewed())):  # the model that was stopped, and a new one
        trained(model=model, resume=True, **keyed, run_dir=tmp_path / kind)
        assert torch.equal(model.mean, whole.mean)
        assert_same(model, whole)
        assert timeless(fa.train.reports(tmp_path / kind)) == timeless(past)
    viewed().load_state_dict(fa.models.read_weights(tmp_path / "step" / "model.safetensors")[0])


def one_epoch(*given, **options):
    return [next(fa.train.epochs(*given, **options))]


def last_of_two(model, x, y):
    return fa.attacks.last_iterate(model, x, y, THREAT, steps=2, step_size=0.1)


POINTS = {
    "last_iterate": last_of_two,
    "universal": lambda *given: fa.attacks.universal(given[0], given[1:], THREAT, epochs=2).apply(given[1]),
    **{
        make.__name__: lambda model, x, y, make=make: make(model, [*zip(x, y, strict=True)], steps=2).x
        for make in ALL
    },
}


@pytest.mark.parametrize("name", POINTS)
def test_points_of_a_frozen_lie_in_memory_as_x_does(name):
    model, y = viewed().eval(), images(20).y
    for order in (torch.contiguous_format, torch.channels_last):
        x = RGB.contiguous(memory_format=order)
        points = POINTS[name](fa.freeze(model, precision="bf16"), x, y)
        assert points.stride() == (x if name in ("last_iterate", "universal") else RGB).stride()


@every_recipe
def test_a_step_of_fit_is_a_step_in_a_loop_of_ones_own(name):
    x, y, _ = hand.batch()
    model = hand.warm_net()
    twin, recipe, seed = deepcopy(model), recipe_of(name), rng.derive(3, "attack", 1)
    options = {"learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.01}
    _, (report,) = trained(recipe, images(9), model=model, epochs=1, batch_size=9, **options)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.01)
    keys = {"ids": torch.arange(9), "seed": seed}
    if owns_step(recipe):
        loss = recipe.step(fa.train.Step(model=twin, optimizer=optimizer, x=x, y=y, epoch=1, **keys))
    else:
        loss = recipe(twin, x, y, **keys)
        loss.backward()
        optimizer.step()
    assert report.loss == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


def loss_of(name, model, x, y, ids, seed=3):
    recipe = OF_CLASSES[name]
    if owns_step(recipe):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        at = {"model": model, "optimizer": optimizer, "x": x, "y": y, "ids": ids, "seed": seed}
        return recipe.step(fa.train.Step(**at, epoch=1))
    return recipe(model, x, y, ids=ids, seed=seed)


@every_recipe
def test_order_of_samples_classes_and_a_constant_change_no_loss(name):
    """What is drawn follows seed and id; what is none of these does not count."""
    data, ids, order = images(12), torch.arange(12), torch.tensor([5, 2, 0, 1, 3, 4, 11, 10, 9, 8, 7, 6])
    x, y = data.x.double(), data.y
    loss = partial(loss_of, name)
    one = loss(flat_net().double(), x, y, ids)
    torch.testing.assert_close(loss(flat_net().double(), x[order], y[order], ids[order]), one)
    moved, classes = flat_net().double(), torch.tensor([2, 0, 1])
    with torch.no_grad():
        for weight in moved[1].parameters():
            weight.copy_(weight[classes])
        moved[1].bias += 7
    torch.testing.assert_close(loss(moved, x, classes.argsort()[y], ids), one)
    if name in LOSSES:
        halves = [loss(flat_net().double(), x[part], y[part], ids[part]) for part in ids.split(6)]
        torch.testing.assert_close(sum(halves) / 2, one)
    draws = name not in ("standard", "fgsm", "pgd-l2", "hidden", "free")
    assert (loss(flat_net().double(), x, y, ids, 4) != one) == draws
    assert (loss(flat_net().double(), x, y, ids + 100) != one) == draws


X, Y = images(20).x, images(20).y
WAYS = {
    "epoch by epoch": {"call": lambda *args, **options: list(fa.train.epochs(*args, **options))},
    "averaged": {"ema": 0.9},
    "kept": {"run_dir": True, "checkpoint_every": 2},
    "watched": {"progress": lambda done, total: torch.rand(done)},
    "tested": {"test_set": images(9), "test_attacks": ATTACKS, "validation_set": images(12), "test_limit": 7},
    "by name": {"recipe": "pgd", "threat": THREAT},
    "read by workers": {"data": [*zip(X, Y.tolist(), strict=True)], "workers": 1},
    "plainly": {"cuda_graph": False},
    "in a loader": {"data": DataLoader(images(20), 5), "batch_size": 8},
    "in batches": {"data": iter([(X[:7], Y[:7]), (X[7:], Y[7:])])},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_asked_beside_a_run_does_not_change_it(way, tmp_path):
    options = {"recipe": fa.train.PGDTraining(THREAT)} | WAYS[way]
    options |= {"run_dir": tmp_path} if "run_dir" in options else {}
    wanted, past = trained(fa.train.PGDTraining(THREAT))
    model, reports = trained(**options)
    assert_same(model, wanted)
    assert [report.loss for report in reports] == [report.loss for report in past]
    assert "run_dir" not in options or fa.train.reports(tmp_path) == reports


def net_of(factor=1.0, constant=0.0):
    model = flat_net().double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)
        model[1].bias += constant
    return model


UNIVERSAL = {
    "another order": lambda x, y, model: (model, (x.flip(0), y.flip(0))),
    "a loader": lambda x, y, model: (model, DataLoader(TensorDataset(x, y), 7)),
    "a list": lambda x, y, model: (model, [*zip(x, y.tolist(), strict=True)]),
    "times 3000": lambda x, y, model: (net_of(3000.0), (x, y)),
    "times 0.003": lambda x, y, model: (net_of(0.003), (x, y)),
    "plus 7": lambda x, y, model: (net_of(1.0, 7.0), (x, y)),
    "frozen": lambda x, y, model: (fa.freeze(model), (x, y)),
}


@pytest.mark.parametrize("attack", ["apgd", "pgd"])
@pytest.mark.parametrize("make", [fa.Linf, fa.L2])
def test_one_perturbation_of_a_set_is_the_same_however_it_is_asked_for(make, attack):
    x, model = images(20).x, net_of()
    y = model(x.double()).argmax(1)
    options = {"attack": attack, "epochs": 4, "batch_size": 64}
    find = partial(fa.attacks.universal, threat=make(0.2), **options)
    one = find(model, (x, y))
    for way, asked in UNIVERSAL.items():
        out = find(*asked(x, y, model))
        torch.testing.assert_close(out.parameters, one.parameters, rtol=0, atol=1e-5, msg=way)
        assert out.robust_accuracy == one.robust_accuracy, way


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_constructed_set_is_one_however_it_is_made(make, tmp_path):
    """To the bit, but for the rounding of sums where batches are others."""
    model = toy_model()
    model[2] = nn.Tanh()  # at the kink of a ReLU two searches part for good
    state, drawn = deepcopy(model.state_dict()), torch.get_rng_state()
    build = partial(make, model, toy_base(20), steps=4, shard_size=6)
    whole = build(out_dir=tmp_path / "whole")
    half = {"world_size": 2, "rank": 1}
    shares = [tmp_path / "0", tmp_path / "1"]
    for rank, folder in enumerate(shares):
        build(out_dir=folder, **half | {"rank": rank})
    build(out_dir=tmp_path / "stopped")
    (tmp_path / "stopped" / "shard-00001.safetensors").unlink()
    ways = {
        "in memory": build(),
        "resumed": build(out_dir=tmp_path / "stopped"),
        "shares merged": construct.merge_constructed(shares[::-1], tmp_path / "merged"),
        "loaded": fa.data.load_constructed(tmp_path / "whole"),
        "a list": make(model, [*toy_base(20)], steps=4, shard_size=6, dtype="uint8"),
    }
    for way, other in ways.items():
        for name in ("x", "labels", "ids", "original_labels"):
            assert torch.equal(getattr(other, name), getattr(whole, name)), (way, name)
    floats, sevens = (build(dtype="float32", batch_size=size) for size in (20, 7))
    torch.testing.assert_close(sevens.x, floats.x, atol=1e-4, rtol=0)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), drawn)
