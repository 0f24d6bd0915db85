"""BatchNorm where several processes share a batch, by the statistics of all of it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastadv.runs import processes
from fastadv.train._share import Share

_SIGNATURE = inspect.signature(functional.batch_norm)


class _Sum(torch.autograd.Function):
    """Sum over the processes; each summand gets the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return processes.add_up(rows.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _Sum.apply(gradients[0].contiguous())  # type: ignore[no-untyped-call]
        return result


class _WholeBatch(TorchFunctionMode):
    """`batch_norm` over all processes, inside; torch's SyncBatchNorm runs on no CPU, and counts weight 0."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is functional.batch_norm:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if given.arguments["training"]:
                return self._normalized(given.arguments)
        return function(*args, **(kwargs or {}))

    def _normalized(self, given: Mapping[str, Any]) -> Tensor:
        """Compute `batch_norm` in train mode over all processes, and update its running statistics."""
        x: Tensor = given["input"]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance, count = self._moments(values)
        with torch.no_grad():
            for kept, now in (("running_mean", mean), ("running_var", variance * (count / (count - 1)))):
                if given[kept] is not None:
                    given[kept].lerp_(now.to(given[kept]), given["momentum"])
        shape = [1, -1] + [1] * (x.ndim - 2)
        result = (values - mean.view(shape)) * (variance + given["eps"]).rsqrt().view(shape)
        if given["weight"] is not None:
            result = result * given["weight"].view(shape)
        if given["bias"] is not None:
            result = result + given["bias"].view(shape)
        normalized: Tensor = result.to(x.dtype)
        return normalized

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute mean and variance of each channel over the processes, and the number of values."""
        over = [0, *range(2, values.ndim)]
        own = values.numel() // values.shape[1] if self.share.count else 0
        # deviations from each process's own mean: a difference of squares would round away small variances
        variance, mean = torch.var_mean(values, over, correction=0)
        row = torch.stack([mean, variance, torch.full_like(mean, own)])
        before, after = self.share.rank, self.share.world - self.share.rank - 1
        rows = _Sum.apply(functional.pad(row[None], (0, 0, 0, 0, before, after)))  # type: ignore[no-untyped-call]
        means, variances, counts = rows.unbind(1)
        total = counts.sum(0)
        if own <= 1 and total[0] <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got {list(values.shape)}"
            )
        shares = counts / total
        whole = (shares * means).sum(0)
        return whole, (shares * (variances + (means - whole).square())).sum(0), total


def whole_batch_statistics(share: Share) -> AbstractContextManager[object]:
    """Return a context in which BatchNorm sees all processes; nothing for one of them."""
    return nullcontext() if share.world == 1 else _WholeBatch(share)
