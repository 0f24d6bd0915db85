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
from fastadv.train.recipes.base import owns_step
from tests.data.sets import ALL, toy_base, toy_model
from tests.train.nets import assert_same, grouped, images, net, stopped, timeless, viewed
from tests.train.recipes import hand
from tests.train.test_recipes import LOSSES, RECIPES, THREAT, Own, flat_net, loss_of, own, plain

pytestmark = pytest.mark.usefixtures("one_thread")
HELD = RECIPES | {
    one: fa.train.PGDTraining([THREAT, fa.L2(0.5)], 2, choose=one) for one in ("random", "mean")
}
OF_ONES_OWN = {"own": own, "partial": partial(plain, smoothing=0.1), "method": Own().method, "object": Own()}
HELD |= OF_ONES_OWN
every_recipe = pytest.mark.parametrize("name", RECIPES)
ATTACKS = {"fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.02))}
RGB = images(20).x.repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.6, 0.3])[:, None, None]


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
CASES = dict(zip(HELD, cycle(OPTIONS), strict=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(name, tmp_path):
    """Also in a buffer that no state dict has, of a net that takes points as they lie in memory.

    After an epoch, with the model that was stopped, or within one, with another; a recipe that owns its step
    keeps something from batch to batch, and is stopped both ways.
    """
    run = partial(trained, HELD[name], (RGB, images(20).y), checkpoint_every=2, **CASES[name])
    whole, past = run(model=viewed(), checkpoint_every=None)
    for within in (False, True) if owns_step(HELD[name]) else (len(name) % 2 > 0,):
        asked = partial(run, run_dir=tmp_path / str(within))
        model = viewed()
        if within:
            stopped(5, asked, model=viewed())
            nn.init.zeros_(model.head[1].weight)
        else:
            asked(call=one_epoch, model=model)
        _, rest = asked(model=model, resume=True)
        assert torch.equal(model.mean, whole.mean)
        assert_same(model, whole)
        assert timeless(fa.train.reports(tmp_path / str(within))) == timeless(past)
        assert timeless(rest) == timeless(past)[1:]
        viewed().load_state_dict(fa.models.read_weights(tmp_path / str(within) / "model.safetensors")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "rs", "free", "awp", "pgd-harder", "own"])
def test_a_finished_run_that_takes_more_epochs_has_the_schedule_of_all_from_there(name, tmp_path):
    """Half the rate in the last quarter: of two epochs, of three batches each, and then of four in all."""
    late = fa.train.schedules.Piecewise((0.75,), 0.5)
    options = {"optimizer": "adam", "ema": 0.8, "test_set": images(6)}
    trained(HELD[name], run_dir=tmp_path, schedule=late, **options)
    model, rest = trained(HELD[name], run_dir=tmp_path, schedule=late, epochs=4, resume=True, **options)
    both = lambda done: 0.5 if 5 / 12 <= done < 0.5 or done >= 0.75 else 1.0  # noqa: E731
    whole, past = trained(HELD[name], schedule=both, epochs=4, **options)
    assert_same(model, whole)
    assert timeless(fa.train.reports(tmp_path)) == timeless(past)
    assert timeless(rest) == timeless(past)[2:]


def one_epoch(*given, **options):
    return [next(fa.train.epochs(*given, **options))]


A = fa.attacks
POINTS = {
    "last_iterate": partial(A.last_iterate, threat=THREAT, steps=2, step_size=0.1),
    "universal": lambda model, x, y: A.universal(model, (x, y), THREAT, epochs=2).apply(x),
}
MADE = {make.__name__: make for make in ALL}


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS | MADE)
def test_points_of_a_frozen_lie_in_memory_as_x_does(name):
    y = images(20).y
    for order in (torch.contiguous_format, torch.channels_last):
        model, x = fa.freeze(viewed().eval(), precision="bf16"), RGB.contiguous(memory_format=order)
        if name in POINTS:
            assert POINTS[name](model, x, y).stride() == x.stride()
        else:
            assert MADE[name](model, [*zip(x, y, strict=True)], steps=2).x.stride() == RGB.stride()


@every_recipe
def test_a_step_of_fit_is_a_step_in_a_loop_of_ones_own(name):
    x, y, _ = hand.batch()
    model = hand.warm_net()
    twin, recipe, seed = deepcopy(model), RECIPES[name], rng.derive(3, "attack", 1)
    options = {"learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.01}
    _, (report,) = trained(recipe, images(9), model=model, epochs=1, batch_size=9, **options)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, weight_decay=0.01)
    if owns_step(recipe):
        at = {"model": twin, "optimizer": optimizer, "ids": torch.arange(9), "seed": seed, "epoch": 1}
        loss = recipe.step(fa.train.Step(**at, x=x, y=y))
    else:
        loss = recipe(twin, x, y, ids=torch.arange(9), seed=seed)
        loss.backward()
        optimizer.step()
    assert report.loss == pytest.approx(loss.item(), rel=1e-9)
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()))


@every_recipe
def test_order_of_samples_classes_and_a_constant_change_no_loss(name):
    """What is drawn follows seed and id; what is none of these does not count."""
    data, ids, order = images(12), torch.arange(12), torch.tensor([5, 2, 0, 1, 3, 4, 11, 10, 9, 8, 7, 6])
    x, y = data.x.double(), data.y
    loss = partial(loss_of, RECIPES[name], seed=3)
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
    draws = name not in ("standard", "fgsm", "pgd-l2", "free")
    assert (loss(flat_net().double(), x, y, ids, seed=4) != one) == draws
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


@pytest.fixture(scope="module")
def alone(one_thread):
    return trained(fa.train.PGDTraining(THREAT))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_is_asked_beside_a_run_does_not_change_it(way, alone, tmp_path):
    options = {"recipe": fa.train.PGDTraining(THREAT)} | WAYS[way]
    options |= {"run_dir": tmp_path} if "run_dir" in options else {}
    wanted, past = alone
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


@pytest.mark.slow
@pytest.mark.parametrize(("make", "attack"), [(fa.Linf, "apgd"), (fa.L2, "pgd")])
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


@pytest.mark.slow
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_constructed_set_is_one_however_it_is_made(make, tmp_path):
    """To the bit, but for the rounding of sums where batches are others."""
    model = toy_model()
    model[2] = nn.Tanh()  # at the kink of a ReLU two searches part for good
    state, drawn = deepcopy(model.state_dict()), torch.get_rng_state()
    build = partial(make, model, toy_base(20), steps=4, shard_size=6)
    whole = build(out_dir=tmp_path / "whole")
    build(out_dir=tmp_path / "stopped")
    (tmp_path / "stopped" / "shard-00001.safetensors").unlink()
    held = build()
    for _ in range(2):  # and once more over it
        held.save(tmp_path / "saved")
    saved, streamed = (
        {path.name: path.read_bytes() for path in (tmp_path / kind).glob("shard-*")}
        for kind in ("saved", "whole")
    )
    assert saved == streamed
    assert len(saved) == 4
    again = fa.data.load_constructed(tmp_path / "saved")
    assert again.card == held.card
    assert (again.classes, again.name) == (tuple("abcde"), f"toy-{make.__name__}")
    ways = {
        "in memory": held,
        "saved": again,
        "resumed": build(out_dir=tmp_path / "stopped"),
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
