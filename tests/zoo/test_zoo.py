"""What a frozen model promises of every net: its gradients, its verdicts, and that nothing changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.errors import InputError, NoGradientError

from . import nets  # noqa: F401
from .judge import Answer, check_directions, check_rows, eager
from .net import ZOO, Net, block, head, lent, module
from .state import State

STEPS = 4
FIXED = lent([net for net in ZOO.values() if not (net.randomized or net.writes_x)])
NARROW = lent(
    [
        net for net in ZOO.values()
        if not (net.randomized or net.writes_x) and net.dtype is torch.float32 and net.computes is None
    ]
)  # fmt: skip


def answer(frozen: fa.Frozen, x: Tensor, y: Tensor) -> Answer:
    return Answer(*frozen.input_gradient(x, y))


@pytest.mark.slow
@pytest.mark.parametrize("net", FIXED)
def test_gradients_are_those_of_the_model(net: Net) -> None:
    model = net.build()
    frozen = fa.freeze(net.build())
    for batch in net.batches:
        x, y = net.images(batch)
        found = answer(frozen, x, y)
        if net.computes is None:
            check_rows(model, x, y, found)
        else:
            check_directions(net.build, x, y, found)


@pytest.mark.slow
@pytest.mark.parametrize("net", NARROW)
def test_gradients_in_bfloat16_point_the_same_way(net: Net) -> None:
    frozen = fa.freeze(net.build(), "bf16")
    for batch in [size for size in net.batches if 1 < size <= 16]:
        x, y = net.images(batch)
        check_directions(net.build, x, y, answer(frozen, x, y))


@pytest.mark.slow
@pytest.mark.parametrize("net", FIXED)
def test_verdicts_are_the_models_own_to_the_bit(net: Net) -> None:
    """And stay what they are when the model is asked again."""
    # torch chooses another product of matrices where weights want a gradient, even when none is taken
    model = net.build()
    for weight in model.parameters():
        weight.requires_grad_(False)
    frozen = fa.freeze(net.build())
    kept = []
    for batch in net.batches:
        x, y = net.images(batch)
        with torch.no_grad():
            own = model(x.clone()).clone()
        frozen.input_gradient(x, y)
        kept.append((frozen.verdict(x), own))
        frozen(x)
    tolerance = 1e-6 if net.compiled else 0.0
    for verdict, own in kept:
        torch.testing.assert_close(verdict, own, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("net", lent(list(ZOO.values())))
def test_nothing_of_the_model_or_the_process_changes(net: Net) -> None:
    model = net.build()
    x, y = net.images(3)
    given = x.clone()
    before = State.of(model, values=not net.writes, randomness=not net.randomized)
    try:
        frozen = fa.freeze(model)
        frozen.verdict(x)
        frozen(x)
        frozen.input_gradient(x, y)
    except InputError:
        assert net.writes_x  # which may be refused
    assert torch.equal(x, given)
    before.check(model)


@pytest.mark.slow
@pytest.mark.parametrize("net", FIXED)
def test_pgd_is_as_strong_as_plainly_written(net: Net) -> None:
    model, x = net.build(), net.images(16)[0]
    with torch.no_grad():
        clean = model(x).clone()
    y, threat = clean.argmax(1), fa.Linf(0.03)
    out = fa.attacks.pgd(
        model, x, y, threat, steps=STEPS, step_size=0.01, random_start=False, stop_early=False
    )
    assert threat.contains(out.x_adv, x).all()
    with torch.no_grad():
        assert torch.equal(out.success, model(out.x_adv.clone()).argmax(1) != y)
    loss, success = plain_pgd(net.build(), x, y)
    start = nn.functional.cross_entropy(clean, y, reduction="none")
    gained, wanted = float((out.loss - start).mean()), float((loss - start).mean())
    rounding = 0.02 if net.computes is None else 0.1  # signs of the small entries of a gradient
    assert gained >= wanted - rounding * abs(wanted) - 1e-5, f"gains {gained:.4f} of {wanted:.4f}"
    assert int(out.success.sum()) >= int(success.sum()) - 1  # a kink


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(loss [B], success [B]) of the strongest points of Madry et al.'s steps in plain PyTorch."""
    z, best, success = x, torch.full((len(x),), -torch.inf), torch.zeros(len(x), dtype=torch.bool)
    for _ in range(STEPS + 1):
        at = eager(model, z, y)
        wrong = at.logits.argmax(1) != y
        stronger = (wrong & ~success) | ((wrong == success) & (at.loss > best))
        best, success = torch.where(stronger, at.loss.float(), best), success | wrong
        z = (z + 0.01 * at.gradient.sign()).clamp(x - 0.03, x + 0.03).clamp(0, 1)
    return best, success


def test_a_net_whose_backbone_has_no_gradient_is_refused() -> None:
    """As eager PyTorch does, though there is a BatchNorm to fold."""

    def forward(self: Any, x: Tensor) -> Any:
        with torch.no_grad():
            hidden = self.first(x)
        return self.head(hidden)

    model, x = module(forward, first=block(), head=head()).eval(), torch.rand(4, 3, 8, 8)
    frozen = fa.freeze(model)
    with torch.no_grad():
        assert torch.equal(frozen.verdict(x), model(x))
    with pytest.raises(NoGradientError):
        frozen.input_gradient(x, torch.arange(4))
