"""Normalization of a single image whose memory is in another order than its gradient's.

There torch's backward of `batch_norm`, which `instance_norm` calls too, mixes up the orders and gives another
gradient (measured with PyTorch 2.13 on a CPU: wrong by 140% for one row, right for two), in contiguous
memory, too, where attention over pixels follows. So the guard mends the model with which it compares rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.engine.rewrite import Rewrite, may_round


class _Dense(torch.autograd.Function):
    """The identity, whose gradient is contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def dense(norm: Callable[..., Tensor]) -> Callable[..., Any]:
    """Run `norm` on a single row in contiguous memory, forwards and backwards."""

    def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(input) != 1 or input.ndim < 3 or not (input.requires_grad and torch.is_grad_enabled()):
            return NotImplemented
        return _Dense.apply(norm(input.contiguous(), *args, **kwargs)).clone()  # type: ignore[no-untyped-call]

    return run


NOTE = "single rows normalized in contiguous memory"
NORMS = Rewrite("norms", NOTE, may_round, {norm: dense(norm) for norm in (F.batch_norm, F.instance_norm)})
