"""Aligned: FARE and TeCoA by hand, what a run of them keeps, measures and refuses, and what they teach."""

import gc
import weakref
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

import fastadv as fa
from fastadv import Linf
from fastadv.errors import InputError
from fastadv.train import Aligned, Execution, Optimization, epochs, fit
from fastadv.train.optim import make_schedule
from fastadv.train.presets import find_preset
from fastadv.train.recipes import _followers
from tests.train.nets import assert_same, images, net, stopped, timeless
from tests.train.recipes import hand

THREAT = Linf(hand.RADIUS)
FARE = Aligned(THREAT, steps=hand.STEPS, step_size=hand.STEP_SIZE)
TECOA = replace(FARE, to="texts")


class TwoTowers(nn.Module):
    """A zero-shot classifier: the texts are unit vectors, one a class."""

    def __init__(self, encoder, classes=3, width=3, scale=20.0):
        super().__init__()
        self.encoder, drawn = encoder, torch.Generator().manual_seed(1)
        texts = normalize(torch.randn(classes, width, generator=drawn, dtype=torch.float64))
        dtype = next(encoder.parameters()).dtype
        self.register_buffer("texts", texts.to(dtype))
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype))

    def embed(self, x):
        return self.encoder(x)

    def forward(self, x):
        return self.scale * normalize(self.embed(x)) @ self.texts.T


def by_hand(model, aims, start):
    """The mean squared distance to the aims at points that maximize it."""
    x, _, _ = hand.batch()
    x_adv = hand.ascend(model, x, lambda z: (z - aims).square().sum(1), start)
    return (model(x_adv) - aims).square().sum(1).mean()


@pytest.mark.parametrize("around", [lambda encoder: encoder, TwoTowers], ids=["encoder", "embed"])
def test_two_steps_of_fare_by_hand(around):
    """The second step has other weights and statistics, and the aims of the first."""
    model, twin, state = around(hand.warm_net()), hand.warm_net(), {}
    x, _, ids = hand.batch()
    with torch.no_grad():
        aims = hand.evaluated(twin)(x)
    start = THREAT.random_start(x, seed=hand.SEED, ids=ids)
    for _ in range(2):
        wanted = by_hand(twin, aims, start)
        gradients = hand.gradients(wanted, twin)
        torch.testing.assert_close(FARE.step(hand.step_at(model, rate=0.01, state=state)), wanted.detach())
        with torch.no_grad():
            for weight, gradient in zip(twin.parameters(), gradients, strict=True):
                weight -= 0.01 * gradient
        torch.testing.assert_close([*model.parameters()], [*twin.parameters()])
    torch.testing.assert_close(getattr(model, "encoder", model).state_dict(), twin.state_dict())


def test_tecoa_is_the_cross_entropy_of_scaled_cosines_by_hand():
    model, (x, y, ids) = TwoTowers(hand.warm_net()), hand.batch()
    twin, texts = deepcopy(model.encoder), model.texts.clone()

    def loss(embeddings, **options):
        return cross_entropy(20 * cosine_similarity(embeddings[:, None], texts, 2), y, **options)

    start = THREAT.random_start(x, seed=hand.SEED, ids=ids)
    x_adv = hand.ascend(twin, x, partial(loss, reduction="none"), start)
    wanted = loss(twin(x_adv))
    torch.testing.assert_close(TECOA.step(hand.step_at(model)), wanted.detach())
    moved = zip(model.parameters(), twin.parameters(), hand.gradients(wanted, twin), strict=True)
    torch.testing.assert_close(*zip(*((new, old - 0.1 * g) for new, old, g in moved), strict=True))
    assert torch.equal(model.texts, texts)


def encoder(width=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width))


def test_what_is_kept_near_is_the_embedding_of_the_augmented_image():
    data, near = images(24), Aligned(Linf(1e-6), steps=1)

    def inverted(x, *, ids, seed):
        return 1 - x

    (report,) = fit(encoder(), data, near, epochs=1, augment=inverted)
    assert report.loss < 1e-6 < (encoder()(1 - data.x) - encoder()(data.x)).square().sum(1).mean()


def wide(seed=0):
    """Convolutions whose sums in a channels-last layout differ in their last bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()
        return TwoTowers(nn.Sequential(*parts, nn.Conv2d(64, 64, 1), nn.Flatten(), nn.Linear(1024, 3)))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_to_the_same_bits_whatever_weights_it_is_given(precision, tmp_path):
    def run(model, call=fit, **options):
        execution = Execution(precision=precision, checkpoint_every=2 if options else None)
        options |= {"epochs": 2, "batch_size": 8, "optimizer": "adamw", "augment": "shift"}
        return call(model, images(20), FARE, execution=execution, **options)

    whole, other = wide(), wide(seed=4)
    past = run(whole)
    run(wide(), partial(stopped, 5, fit), run_dir=tmp_path)
    rest = run(other, run_dir=tmp_path, resume=True)
    assert_same(other, whole)
    assert timeless(rest) == timeless(past)[1:]


def test_no_label_is_read():
    x, y = images(20).x, images(20).y
    nets = [encoder() for _ in range(3)]
    sets = (x, None), (x, y), (x, 100 * y + 7)
    reports = [timeless(fit(one, data, FARE, epochs=2)) for one, data in zip(nets, sets, strict=True)]
    assert reports[0] == reports[1] == reports[2]
    assert_same(nets[0], nets[2])
    with pytest.raises(InputError, match="train_set: expected labels from 0 to 2"):
        fit(TwoTowers(encoder()), (x, 100 * y + 7), TECOA, epochs=1)


@pytest.mark.parametrize("recipe", [FARE, TECOA], ids=["fare", "tecoa"])
def test_a_zero_shot_classifier_is_measured_as_one(recipe):
    model, data = TwoTowers(encoder()), images(20)
    tested = {"test_set": data, "test_attacks": "pgd", "threat": Linf(0.05)}
    *_, last = fit(model, data, recipe, epochs=2, **tested)
    table = fa.evaluate(model, data, "pgd", threat=Linf(0.05))
    assert last.clean_accuracy == table.clean_accuracy
    assert last.robust_accuracy == {"pgd": table["pgd"].robust_accuracy}


def test_one_copy_is_searched_in_a_run_and_none_is_left_after_it(monkeypatch):
    made, follow = [], _followers.follow
    monkeypatch.setattr(_followers, "follow", lambda model, *more: made.append(1) or follow(model, *more))
    model = TwoTowers(net())
    run = epochs(model, images(24), FARE, epochs=3, batch_size=8)
    assert (len([*run]), len(made)) == (3, 1)
    gone = weakref.ref(model)
    del model, run
    gc.collect()
    assert gone() is None


class Infinite(nn.Linear):
    """An encoder in whose weights a gradient is NaN."""

    def forward(self, x):
        z = super().forward(x.flatten(1))
        return z + (z - z.detach()).abs().sqrt() if self.training else z


def test_gradients_that_are_nan_are_told():
    with pytest.raises(FloatingPointError, match="got nan in epoch 1 at step 1"):
        fit(Infinite(64, 3), images(24), FARE, epochs=1, batch_size=8)


@pytest.mark.parametrize(
    ("words", "model", "recipe", "options"),
    [
        ("test_set: expected None for Sequential, whose embeddings", encoder(), FARE, {"test_set": images(6)}),
        ("model: expected a zero-shot classifier .* got Sequential; make", encoder(), TECOA, {}),
        (r"model: expected floating embeddings \[B, D\].*6, 6\)", nn.Conv2d(1, 3, 3), FARE, {}),
        ("recipe: expected one that is a loss", encoder(), None, {}),
    ],
)
def test_what_cannot_be_aligned_is_refused_at_the_call(words, model, recipe, options):
    with pytest.raises(InputError, match=words):
        fit(model, images(6), recipe or fa.train.AWP(FARE), epochs=1, **options)


@pytest.mark.parametrize("name", ["fare2", "fare4", "tecoa2", "tecoa4"])
def test_presets_train_as_published(name):
    training, steps = find_preset(name).training(), 1_281_167 // 128
    recipe, optimization = training["recipe"], training["optimization"]
    assert (recipe.threat.radius * 255, recipe.steps, recipe.step_size * 255) == (int(name[-1]), 10, 1)
    schedule = make_schedule(torch.optim.AdamW([torch.zeros(1)], lr=1.0), optimization, 2, steps)
    rate = schedule.lr_lambdas[0]
    assert rate(699) == pytest.approx(0.5, rel=0.01)
    assert rate(1398) < rate(1399) > rate(1400)
    assert rate(2 * steps) == 0
    reports = fit(TwoTowers(encoder()), images(256), **training)
    assert len(reports) == 2
