"""Checks of what attacks are called with: images, masks, and what an attack needs of loss and threat."""

import math

import torch
from torch import Tensor

from fastadv._checks import kind_of
from fastadv.engine.arguments import is_floating, plain
from fastadv.errors import InputError
from fastadv.losses import Loss
from fastadv.threat import THREATS, Threat
from fastadv.threat.base import box_in
from fastadv.threat.checks import check_threat, from_bytes

SIGNED = ("margin", "cw", "dlr")  # losses that are positive where the class is wrong


def check_images(x: Tensor, box: tuple[float, float], values: bool = True) -> Tensor:
    """Return images [B, ...], detached, in float32 or float64; half precision holds no small radius.

    InputError for others, or `values` outside the box, which are read.
    """
    x = from_bytes(x, box)
    if not is_floating(x) or x.ndim < 2:
        arrays = "convert arrays with torch.as_tensor(x), integer images with x.float() / 255"
        raise InputError(
            f"x: expected a floating tensor [B, ...] of rank 2 or more, got {kind_of(x)}; "
            + ("pass its x_adv" if hasattr(x, "x_adv") else arrays)
        )
    x = plain(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.device.type == "meta":
        raise InputError("x: expected a tensor with values, got one on meta; load it first")
    if values and x.numel():
        _check_values(x, box)
    return x


def check_signed_loss(loss: Loss | None) -> None:
    """Raise InputError of a loss by name whose size says nothing of the way to the boundary."""
    if isinstance(loss, str) and loss not in SIGNED:
        raise InputError(
            f"loss: expected None, one of {', '.join(SIGNED)}, or a function, each 0 at the boundary, got "
            f"{loss!r}, whose size does not say how far that is; leave it out"
        )


def check_norm(name: str, threat: Threat, norms: tuple[str, ...]) -> None:
    """Check that a threat has a norm that an attack serves.

    Args:
        name: of the attack, for the message.
        threat: what the caller gave.
        norms: that the attack serves, such as ("linf", "l2").

    Raises:
        InputError: it is no threat model, or one of another norm.
    """
    check_threat(threat)
    if threat.norm not in norms:
        kinds = ", ".join(THREATS[norm].__name__ for norm in norms)
        raise InputError(f"threat: expected one of {kinds}, which {name} serves, got {type(threat).__name__}")


def check_finite_radius(threat: Threat) -> None:
    """Check that the radius of a threat is finite for every sample.

    Args:
        threat: what the caller gave.

    Raises:
        InputError: it is no threat model, or its radius is infinite.
    """
    check_threat(threat)
    if not threat.finite:
        raise InputError("radius: expected a finite one, got an infinite one; give the budget of the attack")


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask as bool like x; InputError unless it is bool, fits, and lets each sample move."""
    wanted = f"mask: expected a bool tensor that broadcasts to x {tuple(x.shape)}, True where x may move"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.device != x.device:
        raise InputError(f"{wanted}, on its device, got {kind_of(mask)}")
    try:
        mask = mask.expand_as(x)
    except RuntimeError:
        raise InputError(f"{wanted}, got {kind_of(mask)}") from None
    if not bool(mask.flatten(1).any(1).all()):
        raise InputError("mask: expected a coordinate that may move in each sample, got none in some")
    return mask


def _check_values(x: Tensor, box: tuple[float, float]) -> None:
    least, most = torch.stack(x.aminmax()).tolist()  # one read
    if not -math.inf < least <= most < math.inf:  # also of NaN
        bad = int((~x.isfinite()).sum())
        raise InputError(f"x: expected finite values, got {bad} NaN or infinite; clean the data first")
    low, high = box_in(box, x.dtype)
    if least < low or most > high:
        raise InputError(
            f"x: expected values in the box [{box[0]:g}, {box[1]:g}], "
            f"got [{least:g}, {most:g}]; set the threat's box, "
            "or keep x in it and normalize inside the model (fastadv.models.Normalized)"
        )
