"""Linear layers in float32 by oneDNN.

On a CPU torch takes such products from MKL, which leaves the widest vectors of other makers' processors
unused: on one core of an AMD EPYC with AVX-512 MKL does 60 to 90 GFLOP/s, oneDNN 140 to 200.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fastadv.engine.calls import replace_calls

LEAST = 1 << 20  # multiplications; with fewer, a call costs as much as it gains
LEAST_WEIGHTS = 1 << 14  # of a layer that reaches this at the usual batch sizes


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dense = None if bias is None else bias.contiguous()  # oneDNN ignores the strides of a bias
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, dense, "none", [], "")
    return found


def available() -> bool:
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(built) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_bfloat16() -> bool:
    """Whether it computes in bfloat16 on this CPU; where it does not, it raises."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _suits(*tensors: Tensor | None) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    return all(
        each.device.type == "cpu" and each.dtype == torch.float32 and each.layout == torch.strided
        for each in given
    ) and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return fast_linear(gradient, weight.t()), None, None  # with a derivative of its own


def fast_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, faster where it is large and weights get no gradient."""
    fixed = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    usual = input.ndim >= 2 and weight.ndim == 2 and input.shape[-1] == weight.shape[1]
    large = usual and input.numel() * len(weight) >= LEAST
    if not (fixed and large and _suits(input, weight, bias) and available()):
        return F.linear(input, weight, bias)
    out: Tensor = _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return out


class FastLinear(nn.Linear):
    """The layer by that function."""

    def forward(self, input: Tensor) -> Tensor:
        return fast_linear(input, self.weight, self.bias)


def gains(model: nn.Module) -> bool:
    """Whether a linear layer of the model is large enough to be done so."""
    return available() and any(
        type(part) is nn.Linear and _suits(part.weight) and part.weight.numel() >= LEAST_WEIGHTS
        for part in model.modules()
    )


def by_onednn(model: nn.Module) -> int:
    """Let the linear layers of a search twin be done so, in place; the number of those that may gain."""
    count = 0
    for part in model.modules():
        if type(part) is nn.Linear and _suits(part.weight):
            part.__class__ = FastLinear
            count += part.weight.numel() >= LEAST_WEIGHTS
        if isinstance(part, fx.GraphModule):
            count += replace_calls(part, {("call_function", F.linear): (fast_linear, fast_linear)})
    return count
