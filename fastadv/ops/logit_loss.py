"""logit_loss: the losses attacks ascend, per sample, with their gradient on the logits, in one pass.

`logit_loss` has the formulas. With a target t in place of y the loss is negated, so that ascent leads to t;
dlr is then (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2).

dlr: for K = 3 the last order statistic takes the place of those that are missing. The denominator is at least
1e-30.

ce depends on the scale of the logits: its gradient is along that of the margin where they are large, and
raises all other classes alike where they are small. ce_sharp scales small ones, by those that decide: how
low a class is that is never predicted changes nothing. Its gradient takes the divisor, which is at least
1e-30, for a constant.

For K = 2 dlr and ce_sharp are the margin.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fastadv.errors import InputError
from fastadv.ops._rows import check_column, wide
from fastadv.ops._samples import assert_ulps
from fastadv.ops.registration.library import Sample, op, register

KINDS = ("ce", "margin", "cw", "dlr", "ce_sharp")
# losses that are exactly 0 where the model is very sure
ENTROPIES = ("ce", "ce_sharp")
# losses that are the margin where there are two classes
LIKE_MARGIN = ("dlr", "ce_sharp")
# the least divisor of ce_sharp and dlr
LEAST = 1e-30
# the least range of the three largest logits and the label's that ce_sharp takes as they are
RANGE = 4.0


def _one(index: Tensor, like: Tensor) -> Tensor:
    """Return one-hot rows in the dtype of `like`."""
    return torch.zeros_like(like).scatter_(1, index[:, None], 1.0)


def _others(z: Tensor, index: Tensor) -> Tensor:
    """Copy z with the column `index` of each row set to -inf."""
    return z.scatter(1, index[:, None], float("-inf"))


def _ce(z: Tensor, label: Tensor, direction: bool) -> tuple[Tensor, Tensor]:
    # differences, which keep their digits where logits share a large constant; log(1 + exp(gap)) and its
    # derivative keep theirs where p_y is near 1
    gap = torch.logsumexp(_others(z, label) - z.gather(1, label[:, None]), dim=1, keepdim=True)
    share = torch.softmax(_others(z, label), dim=1) - _one(label, z)
    grad = share if direction else share * torch.sigmoid(gap)
    return softplus(gap, threshold=50.0).squeeze(1), grad


def unit_of(z: Tensor, label: Tensor) -> Tensor:
    """Return [B, 1], by what ce_sharp divides the logits of three classes or more."""
    top = z.topk(3, dim=1).values
    last = torch.minimum(top[:, 2:], z.gather(1, label[:, None]))
    return ((top[:, :1] - last) / RANGE).clamp(LEAST, 1.0)


def _ce_sharp(z: Tensor, label: Tensor, direction: bool) -> tuple[Tensor, Tensor]:
    unit = unit_of(z, label)
    loss, grad = _ce((z - z.amax(1, keepdim=True)) / unit, label, direction)
    return loss, grad if direction else grad / unit


def _margin(z: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    other = _others(z, label).argmax(dim=1)
    apart = z.gather(1, other[:, None]) - z.gather(1, label[:, None])
    return apart.squeeze(1), _one(other, z) - _one(label, z)


def _dlr(z: Tensor, label: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    classes = z.shape[1]
    order = z.argsort(dim=1, descending=True, stable=True)
    if targets is None:
        top, grad_top = _margin(z, label)
        third = _one(order[:, 2], z)
    else:
        top = (z.gather(1, targets[:, None]) - z.gather(1, label[:, None])).squeeze(1)
        grad_top = _one(targets, z) - _one(label, z)
        third = (_one(order[:, 2], z) + _one(order[:, min(3, classes - 1)], z)) / 2
    spread = _one(order[:, 0], z) - third
    width = (spread * z).sum(1, keepdim=True).clamp_min(LEAST)
    loss = top[:, None] / width
    return loss.squeeze(1), (grad_top - loss * spread) / width


def reference(
    logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None, direction: bool
) -> tuple[Tensor, Tensor]:
    for name, index in (("labels", labels), ("targets", targets)):
        # classes on a GPU are not checked: reading them would wait for the device
        if index is None or index.device.type != "cpu":
            continue
        if bool(((index < 0) | (index >= logits.shape[1])).any()):
            raise InputError(
                f"{name}: expected classes in [0, {logits.shape[1]}), got {index.min()} to {index.max()}"
            )
    finite = logits.isfinite().all(1)
    z = torch.where(finite[:, None], logits, 0.0).to(wide(logits.dtype))
    aim = labels if targets is None else targets
    if kind in LIKE_MARGIN and z.shape[1] == 2:
        kind = "margin"
    if kind == "dlr":
        loss, grad = _dlr(z, labels, targets)
    else:
        if kind in ENTROPIES:
            loss, grad = (_ce if kind == "ce" else _ce_sharp)(z, aim, direction)
        else:
            loss, grad = _margin(z, aim)
        if targets is not None:
            loss, grad = -loss, -grad
        if kind == "cw":
            loss, grad = loss.clamp(max=0.0), torch.where(loss[:, None] < 0, grad, 0.0)
    nan = float("nan")
    return torch.where(finite, loss, nan), torch.where(finite[:, None], grad, nan).to(logits.dtype)


def fake(
    logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None, direction: bool
) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[0], dtype=wide(logits.dtype))
    return loss, torch.empty_like(logits, memory_format=torch.contiguous_format)


def compare(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], args: Sample) -> None:
    scale = float(args[0].double().nan_to_num(0.0, 0.0, 0.0).abs().max()) if args[0].numel() else 1.0
    assert_ulps(actual[0], expected[0], 16, floor=4e-7 * max(scale, 1.0))
    assert_ulps(actual[1], expected[1], 16, floor=2e-7)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(3)
    for size, classes, scale in (
        (0, 3, 1.0), (1, 2, 1.0), (7, 3, 5.0), (5, 4, 1.0), (33, 10, 30.0), (4, 1000, 3.0), (9, 10, 1e-3),
    ):  # fmt: skip
        logits = (torch.randn(size, classes, generator=draw) * scale - 2 * scale).to(device, dtype)
        if size > 5:
            logits[0, 0], logits[1, 1], logits[2] = float("nan"), float("inf"), 1.5
        labels = torch.randint(classes, (size,), generator=draw).to(device)
        targets = (labels + 1) % classes
        for kind in KINDS:
            for aims in (None, targets):
                yield logits, labels, kind, aims, False
        yield logits, labels, "ce", None, True
        yield logits * 40, labels, "ce", targets, True
        yield logits, labels, "ce_sharp", targets, True


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.direction = inputs[4]


def _backward(ctx: Any, loss_grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None, None, None]:
    if ctx.direction:
        raise RuntimeError(
            "logit_loss: direction=True keeps no true gradient; "
            "call it with direction=False to differentiate the loss"
        )
    (grad,) = ctx.saved_tensors
    return None if loss_grad is None else grad * loss_grad[:, None].to(grad.dtype), None, None, None, None


register(
    name="logit_loss",
    schema="(Tensor logits, Tensor labels, str kind, Tensor? targets, bool direction) "
    "-> (Tensor loss, Tensor grad)",
    summary="per-sample ce, margin, cw, dlr or ce_sharp and its gradient on the logits",
    reference=reference,
    fake=fake,
    samples=samples,
    compare=compare,
    gradient=(_setup, _backward),
    bytes_moved=lambda logits, *rest: 2 * logits.nbytes,
    flops=lambda logits, *rest: 10 * logits.numel(),
)


_new = op("logit_loss")


def logit_loss(
    logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None = None, direction: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a loss that attacks ascend and its gradient with respect to the logits, in one pass.

    With z the logits and y the label, the loss is

    - "ce": `log sum exp z - z_y`, the cross-entropy;
    - "margin": `max_{j != y} z_j - z_y`;
    - "cw": `min(margin, 0)`, at confidence 0;
    - "dlr": `(max_{j != y} z_j - z_y) / (z_(1) - z_(3))`, with `z_(k)` the k-th largest logit;
    - "ce_sharp": "ce" of `z`, scaled up until its three largest and `z_y` span 4, if they span less.

    With targets the loss rises towards them instead. The loss is differentiable. A row with a non-finite
    logit has loss and gradient NaN. See the top of `fastadv/ops/logit_loss.py` for all details.

    Args:
        logits: [B, K], K >= 2.
        labels: int64 [B] in [0, K).
        kind: one of the names above.
        targets: int64 [B] in [0, K), or None.
        direction: leave out a positive factor of the gradient of "ce" and "ce_sharp", which underflows for
            confident rows.

    Returns:
        loss [B] and gradient [B, K].

    Raises:
        InputError: shapes are others, or the kind is unknown.

    Example:
        >>> import torch, fastadv as fa
        >>> logits, y = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0])
        >>> fa.ops.logit_loss(logits, y, "margin")
        (tensor([2.]), tensor([[-1.,  1.,  0.]]))

    Source:
        Carlini and Wagner 2017 (arXiv 1608.04644) for "cw"; Croce and Hein 2020 (arXiv 2003.01690) for "dlr".
    """
    if kind not in KINDS:
        raise InputError(f"loss: expected one of {', '.join(KINDS)}, got {kind!r}")
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise InputError(
            f"logits: expected floating [B, K] with K >= 2, got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    for name, index in (("labels", labels), ("targets", targets)):
        if index is not None:
            check_column(name, index, logits, torch.int64)
    loss, grad = _new(logits, labels, kind, targets, direction)
    return loss, grad
