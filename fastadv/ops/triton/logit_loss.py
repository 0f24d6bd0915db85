"""logit_loss on a GPU: one program for each row, in float32, its scalars in float64.

The kernel ascends what it computes for `aim`, the label or the target, and negates it where a target is
given. A class out of range makes its row NaN: to raise would wait for the device.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.logit_loss import ENTROPIES, LEAST, LIKE_MARGIN, RANGE
from fastadv.ops.triton._common import WIDTH, load, rounded, start, store

_NONE = tl.constexpr(2**31 - 1)
_LEAST, _RANGE = tl.constexpr(LEAST), tl.constexpr(RANGE)


@triton.jit
def _largest(row, classes, a, b, c, BLOCK: tl.constexpr):
    """Return (value, index) of the row's first largest logit outside the columns a, b and c."""
    value = tl.full((BLOCK,), float("-inf"), tl.float32)
    index = tl.full((BLOCK,), _NONE, tl.int32)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        z = load(row, at, at < classes)
        larger = (at < classes) & (at != a) & (at != b) & (at != c) & (z > value)
        value = tl.where(larger, z, value)
        index = tl.where(larger, at, index)
    top = tl.max(value)
    return top, tl.min(tl.where(value == top, index, _NONE))


@triton.jit
def _finite(row, classes, BLOCK: tl.constexpr):
    broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, classes, BLOCK):
        z = load(row, first + tl.arange(0, BLOCK), first + tl.arange(0, BLOCK) < classes)
        broken |= ((z - z) != 0).to(tl.int32)
    return tl.max(broken) == 0


@triton.jit
def _rate(row, classes, at_aim, BLOCK: tl.constexpr):
    """Return by what ce_sharp multiplies the logits."""
    first, one = _largest(row, classes, -1, -1, -1, BLOCK)
    _, other = _largest(row, classes, one, one, one, BLOCK)
    third, _ = _largest(row, classes, one, other, other, BLOCK)
    span = first - tl.minimum(third, at_aim)
    return 1.0 / tl.minimum(tl.maximum(span / _RANGE, _LEAST), 1.0)


@triton.jit
def _times(value, rate):
    if rate is None:
        return value
    else:
        return value * rate


@triton.jit
def _rest(row, classes, aim, rate, BLOCK: tl.constexpr):
    """Return (largest logit outside the column `aim`, sum of exp(rate * (z - largest)) over those)."""
    top, _ = _largest(row, classes, aim, aim, aim, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        at = first + tl.arange(0, BLOCK)
        z = load(row, at, at < classes)
        total += tl.where((at < classes) & (at != aim), tl.exp(_times(z - top, rate)), 0.0)
    return top, tl.sum(total).to(tl.float64)


@triton.jit
def _softplus(gap):
    """Return log(1 + exp(gap)) and its derivative in float64; both keep their digits where they are small."""
    odds = tl.exp(-tl.abs(gap))
    tail = tl.where(odds < 1e-6, odds * (1.0 - 0.5 * odds), tl.log(1.0 + odds))
    return tl.maximum(gap, 0.0) + tail, tl.where(gap > 0, 1.0, odds) / (1.0 + odds)


@triton.jit
def _ce(row, classes, aim, at_label, rate, direction: tl.constexpr, BLOCK: tl.constexpr):
    """Return (loss, largest other logit, factor of exp(rate * (z - largest)), gradient at the aim)."""
    top, others = _rest(row, classes, aim, rate, BLOCK)
    gap = _times(top.to(tl.float64) - at_label.to(tl.float64), rate) + tl.log(others)
    # their digits are kept where p_aim is near 1
    loss, wrong = _softplus(gap)
    missing = tl.full((), 1.0, tl.float64) if direction else _times(wrong, rate)
    return loss.to(tl.float32), top, (missing / others).to(tl.float32), -missing.to(tl.float32)


@triton.jit
def logit_loss_kernel(
    loss_out, grad_out, logits, labels, targets, classes,
    KIND: tl.constexpr, DIRECTION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = grad_out.dtype.element_ty
    number = tl.program_id(0).to(tl.int64)
    row = logits + number * classes
    grad = grad_out + number * classes
    label = tl.load(labels + number)
    aim = label
    if targets is not None:
        aim = tl.load(targets + number)
    valid = (label >= 0) & (label < classes) & (aim >= 0) & (aim < classes)
    usable = valid & _finite(row, classes, BLOCK)
    label = tl.where(valid, label, 0).to(tl.int32)
    aim = tl.where(valid, aim, 0).to(tl.int32)
    at_label = load(row, aim, valid)

    if KIND == "ce" or KIND == "ce_sharp":
        rate = None
        if KIND == "ce_sharp":
            rate = _rate(row, classes, at_label, BLOCK)
        loss, top, scale, at_aim = _ce(row, classes, aim, at_label, rate, DIRECTION, BLOCK)
        for first in range(0, classes, BLOCK):
            at = first + tl.arange(0, BLOCK)
            value = scale * tl.exp(_times(load(row, at, at < classes) - top, rate))
            value = tl.where(at == aim, at_aim, value)
            if targets is not None:
                value = -value
            store(grad, at, rounded(tl.where(usable, value, float("nan")), dtype), at < classes)
        if targets is not None:
            loss = -loss
    else:
        # the loss is z_up - z_down, for dlr over the spread z_(1) - (z_(3) + z_(4 or 3)) / 2
        rival, other = _largest(row, classes, aim, aim, aim, BLOCK)
        up = other
        down = aim
        loss = rival - at_label
        if targets is not None:
            up = aim
            down = other
            loss = at_label - rival
        if KIND == "dlr":
            if targets is not None:
                down = label
                loss = at_label - load(row, label, valid)
            z0, o0 = _largest(row, classes, -1, -1, -1, BLOCK)
            _, o1 = _largest(row, classes, o0, o0, o0, BLOCK)
            z2, o2 = _largest(row, classes, o0, o1, o1, BLOCK)
            o3 = o2
            z3 = z2
            if targets is not None:
                last, o3 = _largest(row, classes, o0, o1, o2, BLOCK)
                z3 = tl.where(classes > 3, last, z2)
                o3 = tl.where(classes > 3, o3, o2)
            width = tl.maximum(z0 - (z2 + z3) / 2, _LEAST)
            loss = loss / width
        for first in range(0, classes, BLOCK):
            at = first + tl.arange(0, BLOCK)
            value = (at == up).to(tl.float32) - (at == down).to(tl.float32)
            if KIND == "dlr":
                half = ((at == o2).to(tl.float32) + (at == o3).to(tl.float32)) / 2
                value = (value - loss * ((at == o0).to(tl.float32) - half)) / width
            if KIND == "cw":
                value = tl.where(loss < 0, value, 0.0)
            store(grad, at, rounded(tl.where(usable, value, float("nan")), dtype), at < classes)
        if KIND == "cw":
            loss = tl.minimum(loss, 0.0)
    tl.store(loss_out + number, tl.where(usable, loss, float("nan")))


def launch(
    loss: Tensor, grad: Tensor, logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None,
    direction: bool,
) -> None:  # fmt: skip
    count, classes = logits.shape
    if kind in LIKE_MARGIN and classes == 2:
        kind = "margin"
    aims = None if targets is None else targets.contiguous()
    # short rows need few threads
    block = max(128, min(WIDTH, triton.next_power_of_2(classes)))
    start(
        logit_loss_kernel, count, loss, grad, logits.contiguous(), labels.contiguous(), aims, classes,
        KIND=kind, DIRECTION=direction and kind in ENTROPIES, BLOCK=block, num_warps=block // 128,
    )  # fmt: skip
