"""How constructed images are stored: as float32, or as 8-bit values rounded inside the budget."""

import torch
from torch import Tensor

from fastadv.data.imageset import to_unit
from fastadv.errors import InputError
from fastadv.threat import Threat


def encode(x_adv: Tensor, center: Tensor, threat: Threat, dtype: str) -> Tensor:
    """Return `x_adv` [B, ...] as stored: float32 as it is, or uint8 rounded inside the ball."""
    if dtype == "float32":
        return x_adv.float()
    return (threat.quantize(x_adv, center) * 255).round().to(torch.uint8)


def verify(images: Tensor, center: Tensor, threat: Threat, ids: Tensor) -> None:
    """Raise InputError where stored images lie outside the threat around `center`."""
    outside = ~threat.contains(to_unit(images), center)
    if outside.any():
        stored = str(images.dtype).removeprefix("torch.")
        advice = (
            "8 bits are too coarse for it: use dtype='float32'"
            if stored == "uint8"
            else "the search left it, which is a bug: please report it"
        )
        raise InputError(
            f"dtype={stored!r}: expected images inside the {threat.symbol} budget, got {int(outside.sum())} "
            f"outside, the first from sample {int(ids[outside][0])}; {advice}"
        )
