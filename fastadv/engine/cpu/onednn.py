"""Linear layers in float32 by oneDNN.

On a CPU torch takes such products from MKL, which leaves the widest vectors of other makers' processors
unused: on one core of an AMD EPYC with AVX-512 MKL does 60 to 90 GFLOP/s, oneDNN 140 to 200. On an Intel Xeon
with AVX-512 both do the same for 256 rows, and MKL is two to three times as fast for eight.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._torch import has_onednn_ops, onednn_linear
from fastadv.engine.cpu.settings import are_fixed
from fastadv.engine.rewrite import Rewrite, Subject, Way, may_round, unseen
from fastadv.runs.card import is_intel

# multiplications from which it gains, and from which it is tried: with fewer, a call costs more than it saves
LEAST, FEWEST = 1 << 20, 1 << 16
LEAST_WEIGHTS = 1 << 14  # of a layer that reaches this at the usual batch sizes


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dense = None if bias is None else bias.contiguous()  # oneDNN ignores the strides of a bias
    return onednn_linear(x, weight, dense)


def available() -> bool:
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(built) and has_onednn_ops()


def is_faster() -> bool:
    """Return whether torch has oneDNN, and not MKL on an Intel processor."""
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return available() and not (mkl and is_intel())


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
    @unseen
    def backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = saved
        found = fast_linear(gradient, weight.t())  # with a derivative of its own
        return (gradient @ weight if found is NotImplemented else found), None, None


def fast_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Replace `torch.nn.functional.linear` where weights get no gradient."""
    many = _products(input, weight) >= min(FEWEST, LEAST)
    if not (many and are_fixed(weight, bias) and _suits(input, weight, bias) and is_faster()):
        return NotImplemented
    return _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]


def _products(input: Tensor, weight: Tensor) -> int:
    """Return the number of multiplications; -1 where the shapes are not those of a linear layer."""
    usual = input.ndim >= 2 and weight.ndim == 2 and input.shape[-1] == weight.shape[1]
    return input.numel() * len(weight) if usual else -1


def _is_large(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return _products(input, weight) >= LEAST


def _multiplies_faster(subject: Subject) -> bool:
    return may_round(subject) and subject.dtype == torch.float32 and is_faster()


LINEAR = Rewrite(
    "onednn",
    "linear layers by oneDNN",
    _multiplies_faster,
    {F.linear: Way(fast_linear, _is_large)},
    needs="float32 and a torch with oneDNN, and is off where torch has MKL on an Intel processor",
)


def gains(model: nn.Module) -> bool:
    """Return whether any linear layer is large enough to gain from oneDNN."""
    return is_faster() and any(
        isinstance(part, nn.Linear) and _suits(part.weight) and part.weight.numel() >= LEAST_WEIGHTS
        for part in model.modules()
    )
