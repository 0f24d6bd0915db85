"""The settings of a convolution as the kernels here take them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

Two = tuple[int, int]


class Settings(NamedTuple):
    """Of a convolution in two dimensions without groups."""

    stride: Two
    padding: Two
    dilation: Two


def settings(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Settings | None:
    """None for what the kernels here do not take: groups, no batch, autocast, weights that get gradients."""
    fixed = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    fits = input.ndim == weight.ndim == 4 and input.shape[1] == weight.shape[1] and groups == 1
    if not (fixed and fits) or torch.is_autocast_enabled(input.device.type):
        return None
    if isinstance(padding, str):
        if padding != "valid":
            return None
        padding = 0
    return Settings(_two(stride), _two(padding), _two(dilation))


def _two(value: Any) -> Two:
    if isinstance(value, int):
        return value, value
    first, *more = value
    return first, more[0] if more else first
