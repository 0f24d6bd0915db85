"""How processes share a batch, and the statistics of all of it that BatchNorm normalizes by."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastadv.errors import InputError
from fastadv.runs import processes

_SIGNATURE = inspect.signature(functional.batch_norm)


@dataclass(frozen=True)
class Share:
    """The rows of one process: every `world`-th sample of a batch of `size`, from `rank` on."""

    # an owner without a sample in a smaller last batch passes the first one with weight zero

    size: int
    rank: int = 0
    world: int = 1

    @property
    def count(self) -> int:
        return len(range(self.rank, self.size, self.world))

    @property
    def key(self) -> list[int]:
        """Keys for draws that follow the step: none for the first rows, which may be all."""
        return [self.rank] if self.rank else []

    def part(self, rows: Tensor) -> Tensor:
        """Take these rows of the rows [B, ...] of the whole batch."""
        return rows[self.rank :: self.world] if self.count else rows[:1]

    def weighted(self, loss: Tensor) -> Tensor:
        """Weigh the mean loss over these rows, so that the sum over all rows is the mean over the batch."""
        return loss if self.count == self.size else loss * (self.count / self.size)

    def whole(self, rows: Tensor) -> Tensor:
        """Gather the rows of the whole batch, in its order, from those of each process."""
        if self.world == 1:
            return rows
        filled = rows.new_zeros((-(-self.size // self.world), *rows.shape[1:]))
        filled[: self.count] = rows[: self.count]
        return processes.gather(filled).transpose(0, 1).flatten(0, 1)[: self.size]

    def add_up(
        self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Sum the gradients of `weights` over the processes; None where there is none."""
        if self.world == 1:
            return gradients
        known = [gradient is not None for gradient in gradients]
        filled = (torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True))
        sums = processes.add_up(torch.cat([weights[0].new_tensor(known), *(g.flatten() for g in filled)]))
        # read only where some are missing: on a GPU that waits for it
        met = [True] * len(weights) if all(known) else sums[: len(weights)].tolist()
        parts = torch.split(sums[len(weights) :], [weight.numel() for weight in weights])
        return [
            torch.empty_like(weight, requires_grad=False).copy_(part.view(weight.shape)) if some else None
            for weight, part, some in zip(weights, parts, met, strict=True)
        ]


def mean(loss: Tensor) -> Tensor:
    """Return the loss; InputError unless it is one number."""
    if loss.ndim:
        raise InputError(
            "recipe: expected one number, the mean loss of the batch, "
            f"got shape {tuple(loss.shape)}; average it"
        )
    return loss


class _Sum(torch.autograd.Function):
    """Sum over the processes; each summand gets the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return processes.add_up(rows.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _Sum.apply(gradients[0].contiguous())  # type: ignore[no-untyped-call]
        return result


class WholeBatch(TorchFunctionMode):
    """`batch_norm` over all processes, inside; torch's SyncBatchNorm runs on no CPU, and counts weight 0."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if function is functional.batch_norm:
            call = _SIGNATURE.bind(*args, **(kwargs or {}))
            call.apply_defaults()
            if call.arguments["training"]:
                return self._normalized(call.arguments)
        return function(*args, **(kwargs or {}))

    def _normalized(self, arguments: Mapping[str, Any]) -> Tensor:
        """Compute `batch_norm` in train mode over all processes, and update its running statistics."""
        x: Tensor = arguments["input"]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance, count = self._moments(values)
        with torch.no_grad():
            for kept, now in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
                if arguments[kept] is not None:
                    arguments[kept].lerp_(now.to(arguments[kept]), arguments["momentum"])
        shape = [1, -1] + [1] * (x.ndim - 2)
        result = (values - mean.view(shape)) * (variance + arguments["eps"]).rsqrt().view(shape)
        if arguments["weight"] is not None:
            result = result * arguments["weight"].view(shape)
        if arguments["bias"] is not None:
            result = result + arguments["bias"].view(shape)
        normalized: Tensor = result.to(x.dtype)
        return normalized

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute mean and variance of each channel over the processes, and the number of values."""
        over = [0, *range(2, values.ndim)]
        size = values.numel() // values.shape[1] if self.share.count else 0
        # deviations from each process's own mean: a difference of squares would round away small variances
        variance, mean = torch.var_mean(values, over, correction=0)
        row = torch.stack([mean, variance, torch.full_like(mean, size)])
        before, after = self.share.rank, self.share.world - self.share.rank - 1
        rows = _Sum.apply(functional.pad(row[None], (0, 0, 0, 0, before, after)))  # type: ignore[no-untyped-call]
        means, variances, counts = rows.unbind(1)
        total = counts.sum(0)
        if size <= 1 and total[0] <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got {list(values.shape)}"
            )
        shares = counts / total
        whole = (shares * means).sum(0)
        return whole, (shares * (variances + (means - whole).square())).sum(0), total
