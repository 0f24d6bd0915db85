"""judge_: judge a point by its logits, keep what is better, and move along the gradient, if there is one.

One call in place of the verdict, the rank, `keep_best_`, `largest` and `linf_step_`, which together take as
long as a small network; `ops.registration.library.bind` gives it to a search. Of the points and of the best
of each row a success beats any failure, then the higher rank wins: the loss, or the margin for a loss that is
not above 0 if `margin_at_zero` says so. Rows of logits that are not all finite win nothing, are marked in
`not_finite`, and the size of their gradient says nothing. In other rows `steepest` [B] becomes the largest of
itself and |grad|. `ranks` [B, 2 + N] counts calls, then keeps the best rank after the first call and after
the last N; what is not there yet is NaN. Without a gradient both stay as they are. Where there is an x,
x_adv, once judged, takes the step of `linf_step_`. With `stop` nothing is written in rows that were successes
before the call. `success` becomes which rows are successes, found now or so stopped. Only the classes are
checked, since a search calls it at each step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops import keep_best
from fastadv.ops._rows import like
from fastadv.ops._samples import SHAPES, batch, layouts, per_sample
from fastadv.ops.largest import reference as largest
from fastadv.ops.linf_step import reference as linf_step
from fastadv.ops.registration.library import Sample, op, register


def reference(
    best_x: Tensor, best_rank: Tensor, best_success: Tensor, not_finite: Tensor, steepest: Tensor,
    ranks: Tensor, success: Tensor, x_adv: Tensor, grad: Tensor | None, logits: Tensor, loss: Tensor,
    y: Tensor, targets: Tensor | None = None, margin_at_zero: bool = False, stop: bool = False,
    x: Tensor | None = None, radius: float = 0.0, step_size: float = 0.0, lo: float = 0.0, hi: float = 0.0,
    radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
) -> None:  # fmt: skip
    done = best_success & stop
    finite, decided = logits.isfinite().all(1), logits.argmax(1)
    not_finite.logical_or_(~(finite | done))
    success.copy_(done | finite & (decided != y if targets is None else decided == targets))
    if margin_at_zero:
        index = y[:, None]
        margin = logits.scatter(1, index, -torch.inf).amax(1) - logits.gather(1, index).squeeze(1)
        loss = torch.where(loss > 0, loss, margin)
    rank = torch.where(finite, loss, torch.nan).to(best_rank.dtype)
    rank = torch.where(success & rank.isnan(), -torch.inf, rank).masked_fill(done, torch.nan)
    keep_best.reference(best_x, best_rank, best_success, x_adv, rank, success)
    if grad is None:
        return
    size = torch.maximum(steepest, largest(grad).to(steepest.dtype))
    steepest.copy_(torch.where(finite & ~done, size, steepest))
    now, first = best_rank[:, None], ranks[:, 1:2]
    first = torch.where(first.isnan(), now, first)
    noted = torch.cat([ranks[:, :1] + 1, first, ranks[:, 3:], now], dim=1)
    ranks.copy_(torch.where(done[:, None], ranks, noted))
    if x is not None:
        move = x, radius, step_size, lo, hi, radius_rows, step_size_rows
        x_adv.copy_(torch.where(like(done, x), x_adv, linf_step(x_adv, grad, *move)))


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(12)

    def some(count: int, share: float) -> Tensor:
        return torch.rand(count, generator=draw) < share

    for seed, (shape, classes) in enumerate(zip((*SHAPES, (33, 8)), (4, 2, 3, 10, 3, 5, 2, 10), strict=True)):
        count = shape[0]
        for x_adv, grad, x in layouts(*batch(shape, device, dtype, seed)):
            logits = torch.randint(-3, 4, (count, classes), generator=draw).float()  # with ties
            logits[some(count, 0.2), -1] = float("nan") if seed % 2 else float("inf")
            loss = torch.randint(-1, 3, (count,), generator=draw).float()
            steepest = torch.where(some(count, 0.2), torch.nan, torch.randn(count, generator=draw))
            ranks = torch.rand(count, 6, generator=draw)
            ranks[some(count, 0.5), 1:] = float("nan")
            first, was, marked = torch.randn(count, generator=draw), some(count, 0.3), some(count, 0.1)
            y = torch.randint(classes, (count,), generator=draw)
            mine = first, was, marked, steepest, ranks, torch.zeros_like(was)
            rest = logits, torch.where(some(count, 0.2), torch.nan, loss), y
            radii = per_sample(shape, device, seed)
            aims = ((y + 1) % classes).to(device)
            moves = (
                (None, True),
                (None, True, bool(seed % 2), x, 0.3, 0.1, 0.0, 1.0),
                (aims, False, True, x, 0.0, 0.0, 0.0, 1.0, radii, radii.nan_to_num(posinf=2.0)),
            )
            for place, move in enumerate(moves):
                narrow = grad.bfloat16() if place == 1 and dtype is torch.float32 else grad
                written = (1 - x, *(part.clone().to(device) for part in mine), x_adv.clone())
                along = narrow if place or seed % 3 else None
                yield *written, along, *(part.to(device) for part in rest), *move


register(
    name="judge_",
    schema="(Tensor(a!) best_x, Tensor(b!) best_rank, Tensor(c!) best_success, Tensor(d!) not_finite, "
    "Tensor(e!) steepest, Tensor(f!) ranks, Tensor(g!) success, Tensor(h!) x_adv, Tensor? grad, "
    "Tensor logits, Tensor loss, Tensor y, Tensor? targets=None, bool margin_at_zero=False, "
    "bool stop=False, Tensor? x=None, float radius=0.0, float step_size=0.0, float lo=0.0, float hi=0.0, "
    "Tensor? radius_rows=None, Tensor? step_size_rows=None) -> ()",
    summary="per sample, the verdict of logits, the best of a record and of a point, and its `linf_step`",
    reference=reference,
    samples=samples,
    bytes_moved=lambda best_x, *rest: 5 * best_x.nbytes,
    flops=lambda best_x, *rest: 9 * best_x.numel(),
    dtypes=(torch.float32,),
    **keep_best.WRITES,
)

judge_ = op("judge_")  # by position, as the reference
