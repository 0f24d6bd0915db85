"""Linear layers in float32 by oneDNN.

On a CPU torch takes such products from MKL, which leaves the widest vectors of other makers' processors
unused. On two cores of an AMD EPYC with AVX-512 oneDNN is 1.1 to 3.6 times as fast from 1024×512 weights on,
for 4 to 1,024 rows; with 784×256 or fewer the two are level, and a call of ours costs more than it saves.
On an Intel Xeon with AVX-512 both do the same for 256 rows, and MKL is two to three times as fast for eight.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv._torch import has_onednn_ops, onednn_linear
from fastadv.engine.rewrite import Rewrite, Run, on_cpu, unseen
from fastadv.runs.card import is_intel

Two = tuple[int, int]


class Settings(NamedTuple):
    """Of a convolution in two dimensions without groups."""

    stride: Two
    padding: Two
    dilation: Two


def takes_settings(way: Callable[[Tensor, Tensor, Tensor | None, Settings], Any]) -> Run:
    """Turn `way` into a conv2d that declines what the kernels here do not take, such as groups."""

    @wraps(way)
    def conv2d(
        input: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Any:  # fmt: skip
        fits = input.ndim == weight.ndim == 4 and input.shape[1] == weight.shape[1] and groups == 1
        fits = fits and input.device.type == weight.device.type == "cpu" and are_fixed(weight, bias)
        padding = 0 if padding == "valid" else padding
        if not fits or isinstance(padding, str) or torch.is_autocast_enabled("cpu"):
            return NotImplemented
        return way(input, weight, bias, Settings(_two(stride), _two(padding), _two(dilation)))

    return conv2d


def are_fixed(weight: Tensor, bias: Tensor | None) -> bool:
    return not (weight.requires_grad or (bias is not None and bias.requires_grad))


def _two(value: Any) -> Two:
    first, second = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return first, second


LEAST = 1 << 19  # weights of a layer that gains


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
    forms = {(tensor.device.type, tensor.dtype, tensor.layout) for tensor in tensors if tensor is not None}
    return forms == {("cpu", torch.float32, torch.strided)} and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    @unseen
    def backward(ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = saved
        by_input = fast_linear(gradient, weight.t())  # with a derivative of its own
        return (gradient @ weight if by_input is NotImplemented else by_input), None, None


def fast_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Replace `torch.nn.functional.linear` where weights get no gradient."""
    usual = input.ndim >= 2 and weight.ndim == 2 and input.shape[-1] == weight.shape[1]
    gains = usual and weight.numel() >= LEAST and is_faster()
    if not (gains and are_fixed(weight, bias) and _suits(input, weight, bias)):
        return NotImplemented
    return _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]


LINEAR = Rewrite(
    "onednn",
    "linear layers by oneDNN",
    lambda model, dtype: on_cpu(model) and dtype == torch.float32 and is_faster(),
    {F.linear: fast_linear},
    needs="float32 and a torch with oneDNN, and is off where torch has MKL on an Intel processor",
)


def gains(model: nn.Module) -> bool:
    """Return whether any linear layer is large enough to gain from oneDNN."""
    return is_faster() and any(
        isinstance(part, nn.Linear) and _suits(part.weight) and part.weight.numel() >= LEAST
        for part in model.modules()
    )
