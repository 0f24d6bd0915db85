"""The contract of a classifier, plain and frozen by turns: every answer is that of the model in eval mode."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import Plain, Prepared
from tests.engine.nets import CASES, CLASSES, Case, images
from tests.zoo.state import State

pytestmark = pytest.mark.usefixtures("search_copy")
EYE = torch.eye(CLASSES)[None]
Answers = dict[str, Tensor]
same = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
# each net meets one of the engines, but that a Frozen tells why it fell back; of what a caller may have
# around a question, and of the precisions of x
ENGINES = cycle([Plain, fa.freeze])
AROUND = cycle(
    [nullcontext, torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)]
)
DTYPES = cycle([torch.float32, torch.float32, torch.float64])
MET = {
    name: (fa.freeze if case.fell else next(ENGINES), next(AROUND), next(DTYPES))
    for name, case in CASES.items()
}


def module_in(model: Any) -> nn.Module:
    """The module that a method or a partial is of."""
    while not isinstance(model, nn.Module):
        model = model.func if isinstance(model, partial) else model.__self__
    return model


def expected(right: Any, x: Tensor, y: Tensor) -> Answers:
    """What autograd says of a model in eval mode."""
    leaf = x.float().clone().requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):
        logits = right(leaf.clone())
        losses = F.cross_entropy(logits, y, reduction="none")
        sums = [losses.sum(), *logits.sum(0)]
        gradient, *rows = (torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in sums)
    logits = logits.detach()
    return {
        "logits": logits, "loss": losses.detach(), "gradient": gradient, "direction": gradient,
        "jacobian": torch.stack(rows, 1),
    }  # fmt: skip


def answers(asked: Prepared, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each answer under what it is to be, and the question."""
    yield "logits of the verdict", asked.verdict(x)
    yield "logits of the search", asked(x)
    loss, logits, gradient = asked.input_gradient(x, y)
    yield from {"loss": loss, "logits of a gradient": logits, "gradient": gradient}.items()
    yield "direction", asked.input_gradient(x, y, direction=True)[2]
    logits, rows = asked.jacobian(x, EYE.expand(len(x), -1, -1))
    yield from {"logits of a jacobian": logits, "jacobian": rows}.items()


def of_attacks(asked: Prepared, x: Tensor, y: Tensor, follows: bool) -> Iterator[tuple[str, Tensor]]:
    """What attacks ask for besides, and code that follows a gradient."""
    with asked.in_eval():
        ask = asked.bind(x, y, "ce", None)
        for _ in range(0 if ask is None else 3):  # the first passes are checked
            _, logits, direction = ask(x)  # type: ignore[misc]
            yield from {"logits of a bound pass": logits, "direction of a bound pass": direction}.items()
        if (clean := asked.clean_pass(x)) is not None:
            yield "logits of a clean pass", clean.logits
            yield "gradient of a clean pass", clean.gradient(None, y, "ce", None, False)[2]
    if not follows:
        return
    leaf = x.clone().requires_grad_()
    logits, rows = asked(leaf), list[Tensor]()
    for row in logits.sum(0):
        leaf.grad = None
        row.backward(retain_graph=True)
        rows.append(leaf.grad)  # type: ignore[arg-type]
    yield "logits that are followed", logits.detach()
    yield "jacobian that is followed", torch.stack(rows, 1)


def check(case: Case, asked: Prepared, right: Any, x: Tensor, y: Tensor, around: Any) -> None:
    """All answers are those of `right`, also after the next questions and when x has moved."""
    given = x.clone()
    with around():
        found = [*answers(asked, given, y)]
    found += of_attacks(asked, given, y, case.follows)
    assert torch.equal(given, x)
    asked.verdict(1 - x), asked(1 - x)
    given.zero_()
    wanted = expected(right, x, y)
    for name, answer in found:
        assert not answer.requires_grad, name
        assert not answer.is_inference(), name
        ours, theirs = answer.float(), wanted[kind := name.partition(" ")[0]]
        if kind == "direction" and case.mixes:  # whose factors are of the rows, before they are mixed
            continue
        if kind == "direction":
            ours, theirs = (F.normalize(one.flatten(1)) for one in (ours, theirs))
        same(ours, theirs, msg=lambda difference, name=name: f"{name}: {difference}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_classifier(name: str) -> None:
    case, (engine, around, dtype) = CASES[name], MET[name]
    model, right, (x, y) = case.build(), case.build(), images()
    module_in(right).eval()
    module, rows = module_in(model), list[int]()
    if case.counts:
        module.register_forward_pre_hook(lambda part, args: rows.append(len(args[0])))
    before = State.of(module, values=not case.writes)
    asked = engine(model)
    check(case, asked, right, x.to(dtype), y, around)
    if case.follows:  # else its weights are rounded
        before.check(module)
    if case.counts:
        assert asked.forwards == sum(rows)
    if not case.mixes:
        one = expected(right, x, y)
        for _ in range(2):  # the first pass of a single row shows what later ones need
            same(asked.verdict(x[:1]), one["logits"][:1])
            same(asked.input_gradient(x[:1], y[:1])[2], one["gradient"][:1])
    assert asked.verdict(x[:0]).shape == (0, CLASSES)
    fell = [note for note in asked.notes if "fell back" in note]
    assert [case.fell in note and asked.exact for note in fell] == [True] * bool(case.fell)
    for net in (module, module_in(right)):
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(-1.5)
    check(case, asked, right, x, y, nullcontext)
