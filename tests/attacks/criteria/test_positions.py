"""Losses at positions that no scale of the logits changes, and the flag of heads that squash them."""

import warnings
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fastadv as fa
from fastadv.attacks import Share
from fastadv.outputs import flag
from tests.refusals import refuses

X = fa.data.load("digits", "test").x[:24].float()
HEADS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "softmax": lambda z: z.softmax(1)}


class Head(nn.Module):
    def __init__(self, model: nn.Module, head: object) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.model(x))  # type: ignore[no-any-return, operator]


@cache
def dense(classes: int = 3, size: float = 6.0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(classes)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, classes, 3, padding=1))
    with torch.no_grad():
        z = model(X)
        model[2].bias.sub_(z.mean((0, 2, 3)))
        for each in (model[2].weight, model[2].bias):
            each.mul_(size / z.std())
        return model.eval(), model(X).argmax(1)


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) != y).double().mean())


@pytest.mark.parametrize("scale", [1e-5, 1e-2, 100.0])
@pytest.mark.parametrize("loss", [name for name in Share.losses if name != "margin"])
def test_a_scale_changes_no_loss(loss: str, scale: float) -> None:
    model, y = dense()
    z = model(X).detach()
    value = Share(0.3).loss(loss)
    torch.testing.assert_close(value(scale * z, y, None), value(z, y, None))  # type: ignore[operator]
    torch.testing.assert_close(value(z[:2], y[:2], None), value(z, y, None)[:2])  # type: ignore[operator]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["pgd", "segpgd"])
def test_a_squashed_head_is_told_and_its_logits_are_broken_as_without_it(name: str, head: str) -> None:
    model, y = dense()
    run, options = getattr(fa.attacks, name), {"steps": 10, "criterion": Share(1.0), "freeze": False}
    out, bent = run(model, X, y, fa.Linf(0.1), **options), Head(model, HEADS[head])
    assert out.flags == ()
    assert flag(head) in run(bent, X, y, fa.Linf(0.1), **options).flags
    mended = fa.models.logits(bent, head)
    plain = wrong(model, out.x_adv, y)
    assert wrong(mended, run(mended, X, y, fa.Linf(0.1), **options).x_adv, y) > plain - 0.01
    assert plain > 0.2


@pytest.mark.parametrize("size", [0.1, 6.0, 30.0])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_honest_outputs_have_no_flag(classes: int, size: float) -> None:
    model, y = dense(classes, size)
    for net in (model, Head(model, lambda z: z.log_softmax(1))):
        assert fa.attacks.pgd(net, X, y, fa.Linf(0.1), steps=1, criterion=Share(0.5)).flags == ()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [3, 8])
def test_faint_logits_are_broken_as_by_random_search(classes: int) -> None:
    """Cross-entropy raises all other classes alike, wherever the decision is."""
    model, y = dense(classes, 0.1)
    share, threat = Share(0.2), fa.Linf(0.06)
    few, many = (
        fa.attacks.pgd(model, X, y, threat, steps=steps, criterion=share).robust_accuracy
        for steps in (10, 40)
    )
    square = fa.attacks.square(model, X, y, threat, queries=300, criterion=share).robust_accuracy
    assert many <= square + 0.05
    assert many <= few + 0.05


def test_recipes_craft_by_it() -> None:
    model, y = dense()
    sure = Head(model, lambda z: 1000 * z)
    recipe = fa.train.PGDTraining(fa.Linf(0.1), criterion=Share(0.5))
    plain, steep = (wrong(model, fa.train.craft(recipe, m, X, y, seed=0), y) for m in (model, sure))
    assert steep == pytest.approx(plain, abs=0.01)


ROADS = {
    "pgd": lambda m, y: fa.attacks.pgd(m, X, y, fa.Linf(0.1), steps=1, criterion=Share(0.5)),
    "sea": lambda m, y: fa.attacks.sea(m, X, y, fa.Linf(0.1), steps=1, criterion=Share(0.5)),
    "evaluate": lambda m, y: fa.evaluate(m, (X, y), criterion=Share(0.5)),
    "fit": lambda m, y: fa.train.fit(m, (X, y), fa.train.Standard(criterion=Share(0.5)), epochs=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_masks_of_another_kind_are_named(road: str) -> None:
    model, y = dense()
    one_hot = functional.one_hot(y, 3).movedim(-1, 1)
    for masks in (one_hot, one_hot.bool(), one_hot.int(), one_hot.float()):
        refuses(r"pass \w+\.argmax\(1\)", ROADS[road], model, masks)
    refuses(r"pass y\.squeeze\(1\)", ROADS[road], model, y[:, None])
    binary = one_hot.clone()
    binary[:, 0] = 1  # several hold
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ROADS[road](model, binary)
    with pytest.warns(UserWarning, match="leave the sigmoid out"):
        ROADS[road](Head(model, torch.sigmoid), binary)
    one, tall = Head(model, lambda z: torch.sigmoid(z[:, :1])), (y > 0).long()
    for masks in (tall, tall[:, None]):
        with pytest.warns(UserWarning, match="leave the sigmoid out"):
            ROADS[road](one, masks)
