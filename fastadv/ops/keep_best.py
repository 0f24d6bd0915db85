"""keep_best_: keep the strongest point of each sample: a success, then the higher loss; NaN never wins."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv.ops._rows import check_column, check_like
from fastadv.ops._samples import SHAPES, batch
from fastadv.ops.registration.library import Sample, op, register


def reference(
    best_x: Tensor, best_loss: Tensor, best_success: Tensor, x_adv: Tensor, loss: Tensor, success: Tensor
) -> None:
    wins = ~loss.isnan() & ((success & ~best_success) | ((success == best_success) & (loss > best_loss)))
    best_x.copy_(torch.where(wins.reshape(-1, *[1] * (best_x.dim() - 1)), x_adv, best_x))
    best_loss.copy_(torch.where(wins, loss, best_loss))
    best_success.copy_(best_success | (wins & success))


def _nothing(actual: object, expected: object, args: Sample) -> None:
    assert (actual, expected) == (None, None)


# fields of the cards of ops that write their arguments
WRITES: dict[str, Any] = {
    "fake": lambda *args: None, "compare": _nothing, "no_gradient": "it writes its arguments",
}  # fmt: skip


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    draw = torch.Generator().manual_seed(5)
    for seed, shape in enumerate((*SHAPES, (64, 3))):
        x_adv, _, best = batch(shape, device, dtype, seed)
        first, second = (torch.randint(0, 3, shape[:1], generator=draw).float().to(device) for _ in range(2))
        if shape[0] > 2:
            second[0], first[1] = float("nan"), float("-inf")
        was, now = ((torch.rand(shape[0], generator=draw) < 0.5).to(device) for _ in range(2))
        yield best.clone(), first, was, x_adv, second, now
        if len(shape) == 4:
            last = best.contiguous(memory_format=torch.channels_last)
            yield last, first.clone(), was.clone(), x_adv, second, now


register(
    name="keep_best_",
    schema="(Tensor(a!) best_x, Tensor(b!) best_loss, Tensor(c!) best_success, "
    "Tensor x_adv, Tensor loss, Tensor success) -> ()",
    summary="per sample, the best of (best_x, best_loss, best_success) by success, then loss",
    reference=reference,
    samples=samples,
    bytes_moved=lambda best_x, *rest: 2 * best_x.nbytes,
    flops=lambda best_x, *rest: 0,
    **WRITES,
)


def keep_best_(
    best_x: Tensor, best_loss: Tensor, best_success: Tensor, x_adv: Tensor, loss: Tensor, success: Tensor
) -> None:
    """Overwrite rows of best_x, best_loss and best_success where the other three are stronger."""
    check_like(best_x, x_adv=x_adv)
    real = best_loss.dtype if best_x.dtype == torch.float64 else torch.float32
    for name, value in (("best_loss", best_loss), ("loss", loss)):
        check_column(name, value, best_x, real)
    for name, value in (("best_success", best_success), ("success", success)):
        check_column(name, value, best_x, torch.bool)
    op("keep_best_")(best_x, best_loss, best_success, x_adv, loss, success)
