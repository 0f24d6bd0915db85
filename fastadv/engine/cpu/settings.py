"""The settings of a convolution as the kernels here take them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.engine.rewrite import Run

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
        on_cpu = input.device.type == weight.device.type == "cpu"
        if not (fits and on_cpu and are_fixed(weight, bias)) or torch.is_autocast_enabled("cpu"):
            return NotImplemented
        if isinstance(padding, str):
            if padding != "valid":
                return NotImplemented
            padding = 0
        return way(input, weight, bias, Settings(_two(stride), _two(padding), _two(dilation)))

    return conv2d


def are_fixed(weight: Tensor, bias: Tensor | None) -> bool:
    return not (weight.requires_grad or (bias is not None and bias.requires_grad))


def _two(value: Any) -> Two:
    if isinstance(value, int):
        return value, value
    first, *more = value
    return first, more[0] if more else first
