"""What engines promise of every net: its gradients, its verdicts, and that nothing changes."""

from collections.abc import Callable
from functools import partial
from itertools import cycle
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
# each net meets one of the engines, but that a frozen one tells why it fell back
TURNS = cycle([fa.freeze, Plain])
ENGINES: dict[str, Callable[..., Prepared]] = {
    net.name: fa.freeze if net.name in FALL_BACK | BFLOAT16_FALLS_BACK else next(TURNS)
    for net in (*FIXED, *FOREIGN)
}


def fell_back(frozen: Prepared) -> bool:
    return any("fell back" in note or note == DENIED for note in frozen.notes)


def answer(asked: Prepared, x: Tensor, y: Tensor) -> Answer:
    return Answer(*asked.input_gradient(x, y))


def asked_and_model(net: Net) -> tuple[Prepared, nn.Module]:
    """Hold what an engine answers of a net against another net, which is returned as well."""
    source, model = net.build(), net.build()
    batches = [net.images(batch) for batch in net.batches]
    before = State.of(source, values=not net.writes)
    asked, answers = ENGINES[net.name](source), []
    for x, y in batches:
        given = x.clone()
        answers.append((answer(asked, x, y), asked.verdict(x)))
        asked(x)
        assert torch.equal(x, given)
    if isinstance(asked, fa.Frozen) and not net.coarse:
        x, y = max((pair for pair in batches if len(pair[0]) <= 16), key=lambda pair: len(pair[0]))
        rough = fa.freeze(source, "bf16")
        check_directions(net.build, x, y, answer(rough, x, y))
        assert fell_back(rough) == (net.name in BFLOAT16_FALLS_BACK) or net in FOREIGN
    before.check(source)
    for (x, y), (found, _) in zip(batches, answers, strict=True):
        if net.coarse:
            check_directions(net.build, x, y, found)
        else:
            check_rows(model, x, y, found)
    # torch chooses another product of matrices where weights want a gradient, even when none is taken
    for weight in model.parameters() if asked.model is not source else ():
        weight.requires_grad_(False)
    for (x, _), (_, verdict) in zip(batches, answers, strict=True):
        with torch.no_grad():
            right = model(x.clone())
        assert right.abs().max() < 1e3
        torch.testing.assert_close(verdict, right, rtol=0, atol=0, equal_nan=True)
    return asked, model


@pytest.mark.slow
@pytest.mark.parametrize("net", lent(FIXED))
def test_a_net(net: Net) -> None:
    """What a search finds is what the model says, besides."""
    asked, model = asked_and_model(net)
    x, threat = net.images(16)[0], fa.Linf(0.03)
    with torch.no_grad():
        y = model(x).argmax(1).clone()
    search = partial(fa.attacks.pgd, steps=3, step_size=0.01, random_start=False, stop_early=False, loss="ce")
    if net.name in TWO_ANSWERS:
        assert any(flag.startswith("denied: ") for flag in search(asked.source, x, y, threat).flags)
        return
    out = search(asked, x, y, threat)
    assert threat.contains(out.x_adv, x).all()
    with torch.no_grad():
        assert torch.equal(out.success, model(out.x_adv.clone()).argmax(1) != y)
    assert fell_back(asked) == (net.name in FALL_BACK)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of libraries about one another
@pytest.mark.parametrize("net", lent(FOREIGN))
def test_a_model_of_a_library(net: Net) -> None:
    asked_and_model(net)


@pytest.mark.parametrize("prepare", [fa.freeze, Plain], ids=["frozen", "plain"])
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
