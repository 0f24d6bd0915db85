"""fit: it learns, reports, keeps its hands off the rest, and says what is wrong."""

import functools
import math
import re

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv import files
from fastadv.data import ImageSet
from fastadv.runs.folder import RunFolder
from fastadv.train import AWP, FGSMTraining, FreeTraining, PGDTraining, Standard, epochs, fit
from fastadv.train.recipes import RECIPES
from tests.refusals import refuses

from .nets import grouped, images, net

ATTACKS = {"fgsm": functools.partial(fa.attacks.fgsm, threat=fa.Linf(0.02))}


def train(model=None, data=None, recipe=None, call=fit, **options):
    settings = {"epochs": 2, "batch_size": 8} | options
    return call(
        net() if model is None else model,
        images() if data is None else data,
        recipe or Standard(),
        **grouped(**settings),
    )


@pytest.mark.parametrize("recipe", [Standard(), FreeTraining(fa.Linf(0.1), 2)], ids=["standard", "own step"])
def test_max_norm_bounds_the_weights_into_each_unit_after_each_step(recipe):
    most, options, seen = 0.3, {"learning_rate": 0.5, "epochs": 1, "batch_size": 16}, []
    model, free = net(), net()
    model[0].register_forward_pre_hook(lambda part, _: seen.append(part.weight.flatten(1).norm(dim=1)))
    nn.init.constant_(model[0].bias, 2.0)  # no weight into the unit: neither bounded nor counted
    free.load_state_dict(model.state_dict())
    train(model, images(16), recipe, max_norm=most, **options)
    train(free, images(16), recipe, **options)
    assert (seen[0] > most).any()
    if recipe != Standard():  # the second of its two steps begins inside the bound
        assert (seen[-1] <= most * (1 + 1e-5)).all()
    for weight, without in zip(model.parameters(), free.parameters(), strict=True):
        if weight.ndim > 1:
            assert (weight.flatten(1).norm(dim=1) <= most * (1 + 1e-5)).all()
        if recipe == Standard():  # one step: the optimizer's, with rows that are too long shortened
            norms = without.flatten(1).norm(dim=1) if weight.ndim > 1 else torch.zeros(len(weight))
            share = (most / norms).clamp(max=1).view(-1, *[1] * (weight.ndim - 1))
            torch.testing.assert_close(weight, without * share, rtol=1e-5, atol=1e-6)


def test_loss_is_the_mean_over_samples_with_an_unequal_last_batch():
    data, model = images(11), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    wanted = torch.nn.functional.cross_entropy(model(data.x), data.y).item()
    (report,) = train(model, data, epochs=1, learning_rate=1e-12)
    assert report.loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_modes_flags_and_global_randomness_are_the_callers(training):
    model = net().train(training)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    bias = model[0].bias.clone()
    modes = [module.training for module in model.modules()]
    running, rng = model[1].running_mean.clone(), torch.get_rng_state()
    with torch.no_grad():
        for _ in train(model, call=epochs):
            assert not torch.is_grad_enabled()
            assert [module.training for module in model.modules()] == modes
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(bias, model[0].bias)
    assert all(parameter.grad is None for parameter in model.parameters())
    # frozen by the caller only where the model as a whole was in train mode
    assert torch.equal(running, model[1].running_mean) == training


def test_it_trains_under_inference_mode_of_the_caller():
    model = net()
    before = model[5].weight.clone()
    with torch.inference_mode():
        train(model, epochs=1)
    assert not torch.equal(before, model[5].weight)


def test_each_step_draws_of_its_own_and_each_epoch_attacks_anew():
    steps, epochs_ = set(), set()

    def recipe(model, x, y, *, ids, seed):
        steps.add(torch.initial_seed())
        epochs_.add(seed)
        return Standard()(model, x, y)

    train(recipe=recipe, epochs=2, seed=3)
    assert (len(steps), len(epochs_), len({3} | steps | epochs_)) == (14, 2, 17)


def test_tied_weights_are_kept(tmp_path):
    def tied():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3))
        model[2].weight = model[1].weight
        return model

    past = train(tied(), epochs=2, run_dir=tmp_path / "a", schedule="constant")
    model = tied()
    train(model, epochs=2, run_dir=tmp_path / "a", resume=True, schedule="constant")
    assert len(past) == 2
    assert model[2].weight is model[1].weight


BAD = {
    "epochs": [{"epochs": 0}, {"epochs": 1.5}], "batch_size": [{"batch_size": 0}, {"batch_size": "8"}],
    "checkpoint_every": [{"checkpoint_every": 0}], "precision": [{"precision": "half"}],
    "precision: .* got 'fp16'.* with torch.amp.GradScaler": [{"precision": "fp16"}],
    "optimizer": [{"optimizer": "lion"}], "resume": [{"resume": "yes"}], "progress": [{"progress": 1}],
    "schedule": [{"schedule": value} for value in ("sometimes", 0.1, lambda done: math.nan)],
    "augment": [{"augment": value} for value in
                ("mixer", ["crop", "mixer"], ["crop", 3], [], 5, lambda x, *, ids, seed: x[:, :, 1:],
                 lambda x, *, ids, seed: None)],
    "augment: .* of the recipe": [{"recipe": AWP(FGSMTraining(fa.Linf(0.1))), "augment": lambda x, **_: -x}],
    "learning_rate": [{"learning_rate": rate} for rate in (0.0, math.nan, "fast")],
    "momentum": [{"momentum": value} for value in (1.0, -0.1)],
    "weight_decay": [{"weight_decay": value} for value in (-1.0, math.inf)],
    "warm_up": [{"warm_up": value} for value in (-1, 2, "one")],
    "clip_norm": [{"clip_norm": value} for value in (0.0, math.nan)],
    "max_norm": [{"max_norm": value} for value in (-1.0, "short")],
    "ema": [{"ema": value} for value in (0.0, 1.0, True)],
    "ramp": [{"ramp": 1}, {"ramp": 0}, {"ramp": 1, "recipe": FGSMTraining(fa.Linf(0.1)), "epochs": 1}],
    "patience": [{"patience": n, "test_set": images(3), "test_attacks": ATTACKS} for n in (0, 1.5)],
    "on_alarm": [{"on_alarm": "panic"}],
    "test_attacks": [{"patience": 1}, {"on_alarm": "stop"}, {"on_alarm": "rewind", "test_set": images(3)}],
    "test_set": [{"test_attacks": {"a": fa.attacks.fgsm}}],
    "validation_set": [{"validation_set": images(3)}, {"validation_set": images(3), "test_set": images(3)}],
    "run_dir": [{"resume": True}, {"checkpoint_every": 1}, {"run_dir": 3}],
    "limit": [{"test_set": images(3), "test_limit": 0}],
    "attacks": [{"test_set": images(3), "test_attacks": {"pgd": 0.3}}],
    "seed": [{"seed": seed} for seed in (-1, 0.5, 1 << 63)],
    "recipe": [{"recipe": recipe} for recipe in
               ("pdg", "gaussian", Standard, AWP, nn.CrossEntropyLoss(), lambda model, x: model(x).sum(),
                AWP(Standard()).step,
                lambda model, x, y, other: model(x).sum(), lambda model, x, y, seed, /: model(x).sum())],
    "recipe: expected a loss .* without a graph": [{"recipe": lambda model, x, y: model(x).sum().detach()}],
    "recipe: expected one number, .* got": [{"recipe": recipe} for recipe in
        (lambda model, x, y: model(x), functools.partial(fa.attacks.fgsm, threat=fa.Linf(0.1)))],
    "threat": [{"recipe": "pgd"}, {"recipe": "pgd", "threat": 0.1}, {"threat": fa.Linf(0.1)},
               {"recipe": "standard", "threat": fa.Linf(0.1)},
               {"test_set": images(3), "test_attacks": "fgsm"},
               {"test_set": images(3), "test_attacks": "screen"},
               {"threat": fa.Linf(0.1), "test_set": images(3), "test_attacks": ATTACKS}],
    "device": [{"device": "tpu"}, {"device": "nothing:0"}], "compile": [{"compile": "yes"}],
    **{f"{name}: expected a fastadv.train": [{name: {}}] for name in
       ("optimization", "measuring", "ending", "execution")},
}  # fmt: skip


@pytest.mark.slow
def test_a_recipe_may_be_named_and_has_the_threat_of_the_run():
    threat = fa.Linf(0.1)
    (report,) = train(recipe="standard", threat=threat, epochs=1, test_set=images(6), test_attacks=["fgsm"])
    assert set(report.robust_accuracy) == {"fgsm"}
    noisy = {"gaussian", "consistency", "smoothadv"}  # which need sigma
    for name in RECIPES.keys() - {"standard"} - noisy:
        assert train(recipe=name, threat=threat, epochs=1, batch_size=25)[0].loss > 0


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named_at_the_call(name):
    model = net()
    for options in BAD[name]:
        refuses(name, train, model, **options)
    assert model.training


@pytest.mark.parametrize(("count", "size", "step"), [(9, 8, 1), (9, 4, 2), (3, 1, 0)])
@pytest.mark.parametrize("recipe", [Standard(), PGDTraining(fa.Linf(0.1), 2)], ids=["standard", "pgd"])
def test_a_step_of_one_image_is_named_where_batch_norm_needs_two(recipe, count, size, step):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    options = {"batch_size": size, "epochs": 1}
    refuses(rf"got 1 in epoch 1 at step {step}; .*drop_last", train, model, images(count), recipe, **options)
    if size > 1:
        assert train(model, images(count), recipe, drop_last=True, **options)[0].loss > 0


def test_bad_data_and_models_are_named_at_the_call():
    data = images(6)
    wide = ImageSet(data.x, torch.tensor([0, 1, 2, 3, 0, 1]), 4, "wide")
    large = ImageSet(torch.rand(6, 1, 9, 9), data.y, 3, "large")
    for name in ("test_set", "validation_set"):
        refuses(rf"{name}: expected labels .* 2.*got 0 to 3", train, **{name: wide}, test_attacks=ATTACKS)
    for name, wrong in (("test_set", {"test_set": large}), ("train_set", {"data": large})):
        refuses(rf"{name}: expected images .* takes, got \[1, 9, 9\]", train, **wrong)
    refuses("empty", train, data=torch.utils.data.TensorDataset(data.x[:0], data.y[:0]))
    refuses("logits", train, model=nn.Sequential(nn.Conv2d(1, 3, 3)))
    refuses("parameters that require a gradient", train, model=net().requires_grad_(False))
    pairs = torch.utils.data.TensorDataset(data.x, torch.tensor([0, 1, 2, 0, 1, 7]))
    refuses("labels from 0 to 2, as the model has 3 classes, got 0 to 7", train, data=pairs)


def test_an_epoch_is_trained_when_its_report_is_asked_for(tmp_path):
    model = net()
    before = model[5].weight.clone()
    training = epochs(model, images(), Standard(), run_dir=tmp_path, epochs=2, batch_size=10)
    assert torch.equal(model[5].weight, before)
    assert next(training).epoch == 1
    assert not torch.equal(model[5].weight, before)
    training.close()
    RunFolder(tmp_path).close()
    assert list(training) == []


class Spoiled(Standard):
    """In one of its calls the loss, or its gradient, is not finite."""

    calls = 0

    def __call__(self, model, x, y, *, ids=None, seed=0, at=10, change=lambda loss, model: loss * math.nan):
        Spoiled.calls += 1
        loss = super().__call__(model, x, y)
        return change(loss, model) if Spoiled.calls == at else loss


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Spoiled, "calls", 0)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_epoch_and_step_and_keeps_the_checkpoint(tmp_path, calls):
    model, options = net(), {"recipe": Spoiled(), "run_dir": tmp_path, "identity": "counts its calls"}
    with pytest.raises(FloatingPointError, match="nan in epoch 2 at step 2") as caught:
        train(model, **options)
    order = fa.rng.permutation(50, fa.rng.derive(0, "order", 2))[16:24].tolist()
    assert f"(samples {', '.join(map(str, order))})" in str(caught.value)
    assert str(caught.value).endswith(f"{tmp_path / 'checkpoint.safetensors'} is kept")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    (report,) = train(resume=True, **options)
    assert report.epoch == 2


@pytest.mark.parametrize("every", [None, 2])
def test_weights_that_are_not_finite_reach_no_checkpoint(every, tmp_path, calls):
    """A finite loss may have an infinite gradient; after the last step of an epoch no loss would tell."""
    last = 7 + (7 if every is None else 2)

    def rooted(loss, model):
        return loss + (sum(weight.sum() for weight in model.parameters()) * 0.0).sqrt()

    recipe = functools.partial(Spoiled(), at=last, change=rooted)
    with pytest.raises(FloatingPointError, match="finite weights, got NaN or infinity in ") as caught:
        train(recipe=recipe, run_dir=tmp_path, checkpoint_every=every, identity="counts its calls")
    assert str(caught.value).endswith(f"{tmp_path / 'checkpoint.safetensors'} is kept")
    assert Spoiled.calls == last
    kept, _ = files.load_tensors(tmp_path / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


def convolutions():
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 3))


@pytest.mark.parametrize(("channels", "stride", "allowed"), [(15, 2, False), (16, 2, True), (15, 1, True)])
def test_a_layer_whose_weight_gradient_writes_out_of_bounds_stays_contiguous(
    channels, stride, allowed, search_copy
):
    """Examples reach it contiguous, whatever the layout of the copy that is searched."""

    class Noted(fa.train.FastTraining):
        def objective(self, model, x, y, x_adv):
            noted.append((model[0].weight.is_contiguous(), x_adv.is_contiguous()))
            return super().objective(model, x, y, x_adv)

    noted, data = [], (torch.rand(16, 3, 8, 8), torch.arange(16) % 8)
    last = nn.Conv2d(channels, 8, 1, stride=stride), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    fit(nn.Sequential(nn.Conv2d(3, channels, 3), *last), data, Noted(fa.Linf(0.1)), epochs=1)
    assert noted == [(not allowed, True)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_have_the_callers_layout_again_afterwards(optimizer):
    model, other = convolutions(), convolutions().to(memory_format=torch.channels_last)
    training = fa.train.epochs(model, images(), Standard(), epochs=3, optimizer=optimizer)
    next(training)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)
    training.close()
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    fit(other, images(), Standard(), epochs=1, optimizer=optimizer)
    assert other[2].weight.is_contiguous(memory_format=torch.channels_last)


FAR = r"is far above the 1.0986 of equal probabilities for 3 classes; .* fa\.models\.adapt\(net, mean="


@pytest.mark.parametrize("recipe", [Standard(), PGDTraining(fa.Linf(8, box=(0, 255)), steps=1), "trades"])
def test_a_first_loss_of_images_that_nobody_normalized_is_told_in_every_road(recipe, logged):
    model, held = net()[3:], images()
    model[-1] = nn.Linear(64, 3)
    raw = ImageSet(255 * held.x, held.y, held.classes, "raw", box=(0, 255))
    fit(model, raw, recipe, epochs=2, batch_size=25, learning_rate=1e-6, threat=fa.Linf(8, box=(0, 255)))
    (told,) = [line for line in logged.text.splitlines() if "equal probabilities" in line]
    assert re.search(f"the loss in epoch 1, .* {FAR}", told)


@pytest.mark.parametrize("name", ["standard", "fgsm", "trades"])
def test_a_loop_of_ones_own_is_told_of_its_first_loss_once(name, recwarn):
    box = fa.Linf(8, box=(0, 255))
    recipe = Standard() if name == "standard" else RECIPES[name](box)
    held, model = images(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for x in (held.x, 255 * held.x):  # what was well at first is not looked at again
        recipe(model, x, held.y)
    assert not recwarn
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.warns(UserWarning, match=f"^the first loss, .* {FAR}"):
        recipe(model, 255 * held.x, held.y)
    recipe(model, 255 * held.x, held.y)
    assert not recwarn


END = ", or leave out a softmax at the end"


@pytest.mark.parametrize(
    ("recipe", "rate", "size", "told"),
    [
        (Standard(), 3.0, 2, [END]),
        (FGSMTraining(fa.Linf(0.1)), 3.0, 2, [f", let the radius grow (ramp){END}"]),
        (Standard(), 3.0, 4, []), (Standard(loss="bce"), 3.0, 2, []), (Standard(), 0.06, 2, []),
        (Standard(loss=lambda z, y, _: nn.functional.cross_entropy(z, y, reduction="none")), 3.0, 2, []),
    ],
)  # fmt: skip
def test_a_first_loss_above_that_of_equal_probabilities_is_told_once(recipe, rate, size, told, logged):
    """Unless the epoch has few steps, the loss is another, or falls in the first half."""
    model = net()
    model[-1].weight.data *= 10 if rate == 0.06 else 1
    fit(model, images(), recipe, epochs=2, batch_size=size, learning_rate=rate)
    says = "is above the 1.0986 of equal probabilities for 3 classes; lower the learning rate"
    assert [line.partition(says)[2] for line in logged.text.splitlines() if says in line] == told
