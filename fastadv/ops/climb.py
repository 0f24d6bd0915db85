"""climb_: judge a point by its logits, and keep what is better for the search and its climb, in one call."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastadv.ops import keep_best
from fastadv.ops._samples import batch
from fastadv.ops.logit_loss import reference as loss_and_grad
from fastadv.ops.registration.library import OpCard, Sample, op, register


def reference(
    best_x: Tensor, best_loss: Tensor, best_success: Tensor, not_finite: Tensor, own_x: Tensor,
    own_loss: Tensor, x_adv: Tensor, logits: Tensor, y: Tensor, kind: str, targets: Tensor | None = None,
) -> None:  # fmt: skip
    loss = loss_and_grad(logits, y, kind, targets, False)[0].to(best_loss.dtype)
    finite, decided = logits.isfinite().all(1), logits.argmax(1)
    success = finite & (decided != y if targets is None else decided == targets)
    not_finite.logical_or_(~finite)
    keep_best.reference(best_x, best_loss, best_success, x_adv, loss, success)
    keep_best.reference(own_x, own_loss, torch.zeros_like(success), x_adv, loss, torch.zeros_like(success))


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(6)
    for seed, (shape, classes) in enumerate((((6, 3, 5, 4), 10), ((33, 7), 2), ((1, 2, 3), 3), ((0, 5), 4))):
        count = shape[0]
        best, own, x_adv = batch(shape, device, dtype, seed)
        for kind in ("margin", "cw"):  # to the bit: cross-entropy rounds, and is compared with `logit_loss`
            logits = 3 * torch.randn(count, classes, generator=draw)
            logits[: count // 3, 0] = float("nan")
            losses = [torch.randn(count, generator=draw).to(device) for _ in range(2)]
            flags = [(torch.rand(count, generator=draw) < 0.3).to(device) for _ in range(2)]
            y = torch.randint(classes, (count,), generator=draw).to(device)
            given = best.clone(), losses[0], *flags, own.clone(), losses[1], x_adv, logits.to(device), y, kind
            yield given
            yield *(each.clone() if isinstance(each, Tensor) else each for each in given), (y + 1) % classes


register(
    OpCard(
        name="climb_",
        schema="(Tensor(a!) best_x, Tensor(b!) best_loss, Tensor(c!) best_success, Tensor(d!) not_finite, "
        "Tensor(e!) own_x, Tensor(f!) own_loss, Tensor x_adv, Tensor logits, Tensor y, str kind, "
        "Tensor? targets=None) -> ()",
        summary="per sample, the best of a record and of a climb, by the loss and verdict of logits",
        reference=reference,
        samples=samples,
        bytes_moved=lambda best_x, *rest: 2 * best_x.nbytes,
        flops=lambda best_x, *rest: 4 * rest[6].numel(),
        **keep_best.WRITES,
    )
)


def climb_(
    best: tuple[Tensor, Tensor, Tensor], not_finite: Tensor, own: tuple[Tensor, Tensor], x_adv: Tensor,
    logits: Tensor, y: Tensor, kind: str, targets: Tensor | None = None,
) -> None:  # fmt: skip
    """Overwrite rows of `best` (points [B, ...], losses, successes [B]) and `own` (points, losses) by x_adv.

    logits [B, K], in float32 like the losses, are those of x_adv; its loss is `kind` of `ops.logit_loss`. In
    `best` a success beats any failure, then the higher loss wins, in `own` the higher loss. Rows of logits
    that are not all finite win nothing, and are marked in `not_finite` bool [B]. Only the classes are
    checked, as in `judge_`.
    """
    op("climb_")(*best, not_finite, *own, x_adv, logits, y, kind, targets)
