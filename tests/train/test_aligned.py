"""Aligned: FARE and TeCoA by hand, what a run of them keeps, measures and refuses."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

import fastadv as fa
from fastadv.train import Aligned, fit
from fastadv.train.optim import make_schedule
from fastadv.train.recipes import _followers
from tests.refusals import refuses
from tests.train.nets import assert_same, images, timeless
from tests.train.recipes import hand

FARE, TECOA = (Aligned(fa.Linf(hand.RADIUS), to, hand.STEPS, hand.STEP_SIZE) for to in ("frozen", "texts"))


class TwoTowers(nn.Module):
    """A zero-shot classifier, whose texts are unit vectors."""

    def __init__(self, encoder, classes=3, width=3):
        super().__init__()
        drawn = torch.randn(classes, width, generator=torch.Generator().manual_seed(1))
        self.encoder = encoder
        self.register_buffer("texts", normalize(drawn).to(next(encoder.parameters())))

    def embed(self, x):
        return self.encoder(x)

    def forward(self, x):
        return 20 * normalize(self.embed(x)) @ self.texts.T


def assert_step_by_hand(recipe, model, twin, loss, state):
    """One step has the loss, and moves the weights, as by hand at the twin."""
    x, _, ids = hand.batch()
    start = recipe.threat.random_start(x, seed=hand.SEED, ids=ids)
    wanted = loss(twin(hand.ascend(twin, x, loss, start))).mean()
    gradients = hand.gradients(wanted, twin)
    torch.testing.assert_close(recipe.step(hand.step_at(model, rate=0.01, state=state)), wanted.detach())
    with torch.no_grad():
        for weight, gradient in zip(twin.parameters(), gradients, strict=True):
            weight -= 0.01 * gradient
    torch.testing.assert_close(getattr(model, "encoder", model).state_dict(), twin.state_dict())


@pytest.mark.parametrize("model", [hand.warm_net(), TwoTowers(hand.warm_net())], ids=["encoder", "embed"])
def test_two_steps_of_fare_by_hand(model):
    """The second has other weights and statistics, and still the aims of the first."""
    twin, state = hand.warm_net(), {}
    with torch.no_grad():
        aims = hand.evaluated(twin)(hand.batch()[0])
    for _ in range(2):
        assert_step_by_hand(FARE, model, twin, lambda z: (z - aims).square().sum(1), state)


def test_tecoa_is_the_cross_entropy_of_scaled_cosines_by_hand():
    model, y = TwoTowers(hand.warm_net()), hand.batch()[1]

    def loss(embeddings):
        logits = 20 * cosine_similarity(embeddings[:, None], model.texts, 2)
        return cross_entropy(logits, y, reduction="none")

    assert_step_by_hand(TECOA, model, deepcopy(model.encoder), loss, {})


def encoder(width=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width))


def test_what_is_kept_near_is_the_embedding_of_the_augmented_image():
    x = images(24).x
    (report,) = fit(encoder(), (x, None), Aligned(fa.Linf(1e-6)), epochs=1, augment=lambda x, **_: 1 - x)
    assert report.loss < 1e-6 < (encoder()(1 - x) - encoder()(x)).square().sum(1).mean()


def test_fare_reads_no_label():
    x, y = images(20).x, 100 * images(20).y + 7
    nets = encoder(), encoder()
    one, other = (timeless(fit(net, (x, z), FARE, epochs=2)) for net, z in zip(nets, (None, y), strict=True))
    assert one == other
    assert_same(*nets)


def test_one_copy_is_searched_in_a_run(monkeypatch):
    copies, follow, model = [], _followers.follow, TwoTowers(encoder())
    monkeypatch.setattr(_followers, "follow", lambda *args: copies.append(1) or follow(*args))
    fit(model, images(24), FARE, epochs=3, batch_size=8)
    assert len(copies) == 1


def test_gradients_of_nan_are_told():
    model = encoder()
    model[1].weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="got nan in epoch 1 at step 1"):
        fit(model, images(24), FARE, epochs=1, batch_size=8)


class Trained(TwoTowers):
    def __init__(self, encoder):
        super().__init__(encoder)
        texts = self.texts
        del self.texts
        self.texts = nn.Parameter(texts)


class Narrowing(nn.Sequential):
    def forward(self, x):
        return super().forward(x)[:, : 2 if self.training else 3]


@pytest.mark.parametrize(
    ("words", "model", "recipe", "tests"),
    [
        ("test_set: expected None for Sequential, whose embeddings", encoder(), FARE, images(6)),
        ("model: expected a zero-shot classifier .* got Sequential; make", encoder(), TECOA, None),
        (r"model: expected embeddings \[B, D\].*6, 6\)", nn.Conv2d(1, 3, 3), FARE, None),
        (r"D > 1, got \(1, 1\); return one vector", encoder(1), FARE, None),
        ("fixed `texts` for to='texts', got Trained", Trained(encoder()), TECOA, None),
        (r"D = 3, got \(6, 2\); return one vector", Narrowing(*encoder()), FARE, None),
    ],
)
def test_what_cannot_be_aligned_is_refused_at_the_call(words, model, recipe, tests):
    refuses(words, fit, model, images(6), recipe, epochs=1, test_set=tests)


@pytest.mark.parametrize("name", ["fare2", "tecoa4"])
def test_presets_train_as_published_and_measure_the_classifier(name):
    data, steps = images(256), 1_281_167 // 128  # of ImageNet
    training = fa.train.presets.find_preset(name).training(test_set=data)
    recipe, adamw = training["recipe"], torch.optim.AdamW([torch.zeros(1)], lr=1.0)
    assert (recipe.threat.radius * 255, recipe.steps, recipe.step_size * 255) == (int(name[-1]), 10, 1)
    (rate,) = make_schedule(adamw, training["optimization"], 2, steps).lr_lambdas
    assert rate(1398) < rate(1399) > rate(1400)
    assert (rate(699), rate(2 * steps)) == (pytest.approx(0.5, rel=0.01), 0)
    model, screen = TwoTowers(encoder()), partial(fa.attacks.autoattack, version="screen")
    *_, last = fit(model, data, **training)
    table = fa.evaluate(model, data, {"screen": screen}, threat=recipe.threat)  # as the classifier that it is
    assert last.clean_accuracy == table.clean_accuracy
    assert last.robust_accuracy == {"screen": table["screen"].robust_accuracy}
