"""What both engines promise of every net: its gradients, its verdicts, and that nothing changes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine import Plain, Prepared
from fastadv.engine.frozen import DENIED
from fastadv.errors import NoGradientError

from . import nets  # noqa: F401
from .judge import Answer, check_directions, check_rows
from .net import ZOO, Net, block, head, lent, module
from .nets.foreign import FOREIGN
from .state import State

pytestmark = pytest.mark.usefixtures("search_copy")
FIXED = [net for net in ZOO.values() if not net.randomized]
RANDOMIZED = [net for net in ZOO.values() if net.randomized]
# nets whose search copy fails, by hooks and formats of their own, or is told apart from the model
FALL_BACK = {
    "fourier", "backward_hook_on_a_norm", "weights_by_functional_call",
    "autocast_inside", "narrow_part",
}  # fmt: skip
BFLOAT16_FALLS_BACK = {
    "fourier", "weights_by_functional_call", "narrow_part", "spatial_transformer",
    "other_norms", "forward_set_on_an_instance",
}  # fmt: skip
# which answers otherwise where a gradient is followed: successes of a search are denied, and told
TWO_ANSWERS = {"quantized_without_gradient"}
both = pytest.mark.parametrize("prepare", [fa.freeze, Plain], ids=["frozen", "plain"])


def fell_back(frozen: Prepared) -> bool:
    return any("fell back" in note or note == DENIED for note in frozen.notes)


def answer(frozen: Prepared, x: Tensor, y: Tensor) -> Answer:
    return Answer(*frozen.input_gradient(x, y))


def frozen_and_model(net: Net) -> tuple[Prepared, nn.Module]:
    """Freeze a net and hold what it answers, and a plain call, against another, which is returned as well."""
    source, model = net.build(), net.build()
    batches = [net.images(batch) for batch in net.batches]
    before = State.of(source, values=not net.writes)
    frozen, plain, answers = fa.freeze(source), Plain(source), []
    for x, y in batches:
        asked = x.clone()
        answers.append((answer(frozen, x, y), answer(plain, x, y), frozen.verdict(x)))
        frozen(x)
        assert torch.equal(x, asked)
    if not net.coarse:
        x, y = max((pair for pair in batches if len(pair[0]) <= 16), key=lambda pair: len(pair[0]))
        rough = fa.freeze(source, "bf16")
        check_directions(net.build, x, y, answer(rough, x, y))
        assert fell_back(rough) == (net.name in BFLOAT16_FALLS_BACK) or net in FOREIGN
    before.check(source)
    for (x, y), (*searched, _) in zip(batches, answers, strict=True):
        for one in searched:
            if net.coarse:
                check_directions(net.build, x, y, one)
            else:
                check_rows(model, x, y, one)
    # torch chooses another product of matrices where weights want a gradient, even when none is taken
    for weight in model.parameters() if frozen.model is not source else ():
        weight.requires_grad_(False)
    for (x, _), (*_, verdict) in zip(batches, answers, strict=True):
        with torch.no_grad():
            right = model(x.clone())
        assert right.abs().max() < 1e3
        torch.testing.assert_close(verdict, right, rtol=0, atol=0, equal_nan=True)
    return frozen, model


@pytest.mark.slow
@pytest.mark.parametrize("net", lent(FIXED))
def test_a_net(net: Net) -> None:
    """What a search finds is what the model says, besides."""
    frozen, model = frozen_and_model(net)
    x, threat = net.images(16)[0], fa.Linf(0.03)
    with torch.no_grad():
        y = model(x).argmax(1).clone()
    search = partial(fa.attacks.pgd, steps=3, step_size=0.01, random_start=False, stop_early=False, loss="ce")
    if net.name in TWO_ANSWERS:
        assert any(flag.startswith("denied: ") for flag in search(frozen.source, x, y, threat).flags)
        return
    out = search(frozen, x, y, threat)
    assert threat.contains(out.x_adv, x).all()
    with torch.no_grad():
        assert torch.equal(out.success, model(out.x_adv.clone()).argmax(1) != y)
    assert fell_back(frozen) == (net.name in FALL_BACK)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries about one another
@pytest.mark.parametrize("net", lent(FOREIGN))
def test_a_model_of_a_library(net: Net) -> None:
    frozen_and_model(net)


@both
@pytest.mark.parametrize("net", lent(RANDOMIZED))
def test_nothing_of_a_randomized_net_or_the_process_changes(
    net: Net, prepare: Callable[..., Prepared]
) -> None:
    model = net.build()
    x, y = net.images(3)
    kept_x = x.clone()
    before = State.of(model, randomness=False)
    frozen = prepare(model)
    frozen.verdict(x)
    frozen(x)
    frozen.input_gradient(x, y)
    assert torch.equal(x, kept_x)
    before.check(model)


@both
def test_a_net_whose_backbone_has_no_gradient_is_refused(prepare: Callable[..., Prepared]) -> None:
    """As eager PyTorch does, though there is a BatchNorm to fold."""

    def forward(self: Any, x: Tensor) -> Any:
        with torch.no_grad():
            hidden = self.first(x)
        return self.head(hidden)

    model, x = module(forward, first=block(), head=head()).eval(), torch.rand(4, 3, 8, 8)
    frozen = prepare(model)
    with torch.no_grad():
        assert torch.equal(frozen.verdict(x), model(x))
    with pytest.raises(NoGradientError):
        frozen.input_gradient(x, torch.arange(4))
