"""The logits behind a softmax, a sigmoid, tanh or softsign, as attacks, recipes and freezing see them."""

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks import Signs
from tests.attacks.masking.nets import honest
from tests.defenses import Defended, Pointwise
from tests.refusals import refuses

HEADS: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: nn.Softmax(1), "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "softsign": nn.Softsign,
}  # fmt: skip
LARGEST = {"softmax": 60.0, "sigmoid": 12.0, "tanh": 7.0}
THREAT, TEST = fa.Linf(0.1), fa.data.load("digits", "test", limit=150)
ODD = TEST.y % 2


class Odd(nn.Module):
    """One logit of ten classes: whether the digit is odd."""

    def forward(self, z: Tensor) -> Tensor:
        return z[:, 1::2].logsumexp(1, keepdim=True) - z[:, ::2].logsumexp(1, keepdim=True)


def net(largest: float, one: bool = False) -> nn.Module:
    """The standard net, scaled until that is its largest logit on the test set."""
    inner = nn.Sequential(honest("standard"), Odd()) if one else honest("standard")
    with torch.no_grad():
        scale = largest / float(inner(TEST.x).abs().max())
    return Defended(inner, after=Pointwise(partial(torch.mul, torch.tensor(scale)))).eval()


def crafted(model: nn.Module) -> float:
    x_adv = fa.train.craft(fa.train.TRADES(THREAT), model, TEST.x, TEST.y, seed=0)
    return float((model(x_adv).argmax(1) == TEST.y).double().mean())


ATTACKS: dict[str, Callable[..., fa.attacks.AttackResult]] = {
    "pgd": lambda m, y, **more: fa.attacks.pgd(m, TEST.x, y, THREAT, **more),
    "apgd": lambda m, y, **more: fa.attacks.apgd(m, TEST.x, y, THREAT, steps=40, **more),
    "cw": lambda m, y, **more: fa.attacks.cw(m, TEST.x, y, fa.L2(0.4), steps=40, searches=3, **more),
    "fab": lambda m, y, **more: fa.attacks.fab(m, TEST.x, y, THREAT, steps=40, **more),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("pgd", "softmax"), ("apgd", "sigmoid of one"), ("cw", "sigmoid"), ("fab", "tanh"),
        ("TRADES", "softmax"),
    ],
)  # fmt: skip
def test_attacks_find_what_they_find_without_the_head(name: str, head: str) -> None:
    kind, one = head.split()[0], head.endswith("one")
    plain = net(LARGEST[kind], one)
    model = fa.models.logits(nn.Sequential(plain, HEADS[kind]()).eval(), kind)
    if name == "TRADES":
        left, wanted = crafted(model), crafted(plain)
    else:
        y, more = (ODD, {"criterion": Signs()}) if one else (TEST.y, {})
        outs = [ATTACKS[name](each, y, **more) for each in (model, plain)]
        left, wanted = (out.robust_accuracy for out in outs)
        assert outs[0].clean_accuracy == outs[1].clean_accuracy > 0.9
    assert left == pytest.approx(wanted, abs=0.02)
    assert 0.02 < wanted < 0.9


@pytest.mark.parametrize("head", HEADS)
def test_logits_and_gradients_are_those_before_the_head(head: str) -> None:
    z = torch.tensor([[3.0, -5.0, 0.5, 6.5], [-2.0, 1e-3, 4.0, 0.0]]).double().requires_grad_()
    direction = torch.tensor([1.0, -1.0, 0.5, -0.5]).double()
    model = fa.models.logits(HEADS[head](), head)
    before = model(z)
    wanted = z.log_softmax(1) if head == "softmax" else z
    torch.testing.assert_close(before, wanted)
    (gradient,) = torch.autograd.grad((before * direction).sum(), z)
    torch.testing.assert_close(gradient, direction.expand(2, 4))
    for shape in ((2, 1), (2, 4, 3, 3)):
        assert model(torch.rand(shape)).shape == shape


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_at_an_end_are_finite_and_others_are_none(head: str, dtype: torch.dtype) -> None:
    low = -1.0 if head in ("tanh", "softsign") else 0.0
    outputs = torch.tensor([low, 0.5, 1.0, low - 0.1, 1.1, 1 + 1e-7], dtype=dtype)
    found = fa.models.logits(nn.Identity(), head)(outputs)
    assert found.dtype == dtype
    assert found[[0, 1, 2, 5]].isfinite().all()
    assert found[[3, 4]].isnan().all()
    assert (found[:3].diff() > 0).all()


def test_it_is_a_module_like_any_other() -> None:
    model = fa.models.logits(nn.Sequential(net(12.0), nn.Sigmoid()).eval(), "sigmoid")
    wanted, stored = model(TEST.x), io.BytesIO()
    assert torch.equal(copy.deepcopy(model)(TEST.x), wanted)
    plain = fa.models.logits(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)))
    torch.save(plain, stored)
    stored.seek(0)
    assert torch.equal(torch.load(stored, weights_only=False)(TEST.x), plain(TEST.x))
    torch.testing.assert_close(fa.freeze(model)(TEST.x), wanted, atol=5e-2, rtol=1e-3)
    by_function = fa.models.logits(lambda x: plain.model(x))
    assert torch.equal(by_function(TEST.x), plain(TEST.x))
    fa.train.fit(plain, TEST, fa.train.Standard(), epochs=1)
    assert math.isfinite(float(plain(TEST.x).detach().sum()))
    table = fa.evaluate(model, TEST, {"pgd": partial(fa.attacks.pgd, threat=THREAT, steps=5)})
    assert not any("bounded_outputs" in flag for row in table.rows for flag in row.flags)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: fa.models.logits(honest("small"), "sigmoidal"), r"link: expected one of softmax, .*sigmoid"),
        (lambda: fa.models.logits(fa.freeze(honest("small"))), "freeze what fa.models.logits returns"),
        (lambda: fa.models.logits(None), "expected a module or function"),
    ],
)
def test_what_is_no_model_or_link_is_refused(wrong: Callable[[], Any], words: str) -> None:
    refuses(words, wrong)
