"""Normalization of a single image whose memory is in another order than its gradient's.

There torch's backward mixes up the orders (PyTorch 2.13 on a CPU: wrong by 140% to 200% for one row, right
for two), as where attention over pixels follows. So the gradient is made contiguous before.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._torch import NormBase
from fastadv.engine.rewrite import Rewrite, on_cpu


def mend(x: Tensor, normalized: Tensor) -> None:
    """Let the gradient of a normalized single row come back in contiguous memory."""
    if len(x) == 1 and x.ndim > 2 and normalized.requires_grad and x.device.type == "cpu":
        normalized.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]


def mend_parts(parts: Iterable[nn.Module]) -> None:
    """Let all normalizations among these parts do so."""
    for part in parts:
        if isinstance(part, NormBase):
            part.register_forward_hook(lambda part, args, normalized: mend(args[0], normalized))


def _mended(norm: Callable[..., Tensor]) -> Callable[..., Any]:
    def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(input) != 1 or input.ndim < 3 or not (input.requires_grad and torch.is_grad_enabled()):
            return NotImplemented
        normalized = norm(input, *args, **kwargs)
        mend(input, normalized)
        return normalized

    return run


NOTE = "gradients of single normalized rows made contiguous"
WAYS = {norm: _mended(norm) for norm in (F.batch_norm, F.instance_norm)}
NORMS = Rewrite("norms", NOTE, on_cpu, WAYS, exact=True)
