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
from fastadv import losses
from fastadv.engine import Plain, Prepared, room
from fastadv.engine.mapped import Mapped
from tests.engine.nets import CASES, CLASSES, Case, images
from tests.zoo.state import State

pytestmark = pytest.mark.usefixtures("search_copy")
EYE = torch.eye(CLASSES)[None]
TURNED, PICKED = torch.arange(6).flip(0), torch.tensor([4, 0])
BASE = images(seed=1)[0]
# the clamp, which does nothing, needs its input on each way back
SHIFT = fa.Through(lambda x, t: (x + t).clamp(-9, 9), fa.Linf(1.0, (-1.0, 1.0)), still=torch.zeros_like)
Answers = dict[str, Tensor]
same = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
# each net meets one of the engines, but that a Frozen tells what it did, or why it fell back; one of what a
# caller may have around a question, of the precisions of x, and of the sizes of parts
ENGINES = cycle([Plain, fa.freeze])
AROUND = cycle(
    [nullcontext, torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)]
)
DTYPES = cycle([torch.float32, torch.float32, torch.float64])
PARTS = cycle([2, 2, 1000, 1000])  # rows that convolutions of a copy take at once, for each thread
MET = {
    name: (fa.freeze if case.fell or case.note else next(ENGINES), next(AROUND), next(DTYPES), next(PARTS))
    for name, case in CASES.items()
}


def module_in(model: Any) -> nn.Module:
    """The module that a method or a partial is of, or that a function holds."""
    while not isinstance(model, nn.Module):
        held = model.args if isinstance(model, partial) else ()
        model = held[0] if held else model.func if isinstance(model, partial) else model.__self__
    return model


def own(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """A loss of the caller's that holds a value for each sample of the batch."""
    return torch.arange(1.0, len(y) + 1).to(logits) * logits.square().sum(1) / 2


def length(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).norm(dim=1)


def expected(right: Any, x: Tensor, y: Tensor) -> Answers:
    """What autograd says of a model in eval mode."""
    leaf = x.float().clone().requires_grad_()
    with torch.backends.cudnn.flags(enabled=False):
        logits = right(leaf.clone())
        loss = F.cross_entropy(logits, y, reduction="none")
        margins = losses.loss_and_grad(logits, y, "margin", (y + 1) % CLASSES)
        sums = [loss.sum(), (logits * margins[1]).sum(), own(logits, y, None).sum(), *logits.sum(0)]
        gradient, targeted, owned, *rows = (
            torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in sums
        )
    logits, jacobian = logits.detach(), torch.stack(rows, 1)
    return {
        "logits": logits, "loss": loss.detach(), "gradient": gradient, "direction": gradient,
        "picked": gradient[PICKED], "few": logits.detach()[PICKED],
        "jacobian": jacobian, "norms": jacobian.flatten(2).norm(dim=2), "own": owned,
        "margin": margins[0], "targeted": targeted,
    }  # fmt: skip


def answers(asked: Prepared, x: Tensor, y: Tensor, whole: bool) -> Iterator[tuple[str, Tensor]]:
    """Each answer under what it is to be, and the question."""
    yield "logits of the verdict", asked.verdict(x)
    yield "logits of the search", asked(x)
    loss, logits, gradient = asked.input_gradient(x, y)
    yield from {"loss": loss, "logits of a gradient": logits, "gradient": gradient}.items()
    yield "direction", asked.input_gradient(x, y, direction=True)[2]
    margin, _, gradient = asked.input_gradient(x, y, "margin", (y + 1) % CLASSES)
    yield from {"margin": margin, "targeted gradient": gradient}.items()
    logits, rows = asked.jacobian(x, EYE.expand(len(x), -1, -1))
    yield from {"logits of a jacobian": logits, "jacobian": rows}.items()
    yield "norms of a jacobian", asked.jacobian(x, EYE.expand(len(x), -1, -1), length)[1]
    factors = torch.arange(1.0, len(x) + 1)[:, None, None]  # of directions that the logits choose
    yield "own by the logits", asked.jacobian(x, lambda logits: factors.to(logits) * logits[:, None])[1][:, 0]
    if whole:
        yield "own loss", asked.input_gradient(x, y, own)[2]


def of_attacks(asked: Prepared, x: Tensor, y: Tensor, follows: bool) -> Iterator[tuple[str, Tensor]]:
    """What attacks ask for besides, and code that follows a gradient."""
    with asked.in_eval():
        if (clean := asked.clean_pass(x)) is not None:
            yield "logits of a clean pass", clean.logits
            yield "gradient of a clean pass", clean.gradient(None, y, "ce", None, False)[2]
        if (clean := asked.clean_pass(x[TURNED], TURNED)) is not None:
            few = TURNED[PICKED]  # where in the turned batch the picked rows are
            yield "picked gradient", clean.gradient(few, y[PICKED], "ce", None, False)[2]
        ask = asked.bind(x, y, "ce", None)
        for _ in range(0 if ask is None else 3):  # the first passes are checked
            _, logits, direction = ask(x)  # type: ignore[misc]
            yield from {"logits of a bound pass": logits, "direction of a bound pass": direction}.items()
    yield "logits of turned rows", asked.verdict(x[TURNED], TURNED)[TURNED]
    yield "logits of a turned search", asked(x[TURNED], TURNED)[TURNED]
    yield "gradient of turned rows", asked.input_gradient(x[TURNED], y[TURNED], rows=TURNED)[2][TURNED]
    yield "jacobian of turned rows", asked.jacobian(x[TURNED], EYE.expand(6, -1, -1), rows=TURNED)[1][TURNED]
    yield "few logits", asked.of(x[PICKED], PICKED)(x[PICKED])
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


def check(case: Case, asked: Prepared, right: Any, x: Tensor, y: Tensor, around: Any, base: Any = 0) -> None:
    """All answers at x - base are those of `right` at x, also after the next ones and when x has moved."""
    given = x - base
    # first a clean pass, whose way back may not fit
    found = [*of_attacks(asked, given, y, case.follows and not isinstance(asked, Mapped))]
    with around():
        found += answers(asked, given, y, case.whole)
    assert torch.equal(given, x - base)
    asked.verdict(1 - x), asked(1 - x)
    given.zero_()
    alike(case, found, expected(right, x, y))


def alike(case: Case, found: list[tuple[str, Tensor]], wanted: Answers) -> None:
    for name, answer in found:
        assert not answer.requires_grad, name
        assert not answer.is_inference(), name
        ours, theirs = answer.float(), wanted[kind := name.partition(" ")[0]]
        if kind in ("direction", "picked", "few") and case.mixes:  # of some rows, or by factors of each
            continue
        if kind == "direction":
            ours, theirs = (F.normalize(one.flatten(1)) for one in (ours, theirs))
        same(ours, theirs, msg=lambda difference, name=name: f"{name}: {difference}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_classifier(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, (engine, around, dtype, rows_of_a_part) = CASES[name], MET[name]
    monkeypatch.setattr(room, "BYTES", 1)
    monkeypatch.setattr(room, "LEAST", rows_of_a_part)
    model, right, (x, y) = case.build(), (case.right or case.build)(), images()
    module_in(right).eval()
    module, rows = module_in(model), list[int]()
    if case.counts:
        module.register_forward_pre_hook(lambda part, args: rows.append(len(args[0])))
    before = State.of(module, values=not case.writes)
    asked = engine(model)
    # a function's dtype is not known
    check(case, asked, right, x if asked.dtype is None else x.to(dtype), y, around)
    if case.counts:
        assert asked.forwards == sum(rows)
    if not case.mixes:  # of a single row torch's own gradient may be wrong, and what it needs is another
        one = {kind: answer[:1] for kind, answer in expected(right, x, y).items()}
        for alone, order in ((engine(model), torch.contiguous_format), (asked, torch.channels_last)):
            row = x[:1].contiguous(memory_format=order)
            alike(case, [*answers(alone, row, y[:1], case.whole)], one)
    if case.follows or not case.whole:  # else its weights are rounded
        before.check(module)
    assert asked.verdict(x[:0]).shape == (0, CLASSES)
    for size, columns in ((0, 3), (6, 0), (0, 0)):  # of nothing, in its shape
        logits, gradients = asked.jacobian(x[:size], torch.zeros(size, columns, CLASSES))
        assert logits.shape == (size, CLASSES)
        assert gradients.shape == (size, columns, *x.shape[1:])
    assert not case.note or case.note in asked.notes
    fell = [note for note in asked.notes if "fell back" in note]
    assert [case.fell in note and asked.exact for note in fell] == [True] * bool(case.fell)
    for net in (module, module_in(right)):
        with torch.no_grad():
            for weight in net.parameters():
                weight.mul_(-1.5)
    # behind a map, which has an image for each sample
    check(case, Mapped(asked, SHIFT, BASE, torch.arange(6)), right, x, y, nullcontext, BASE)
