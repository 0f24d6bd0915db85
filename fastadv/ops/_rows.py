"""Batches as rows, values that are one number or one per row, and sums rounded so as to stay in the ball."""

from math import frexp, inf, isfinite, ldexp

import torch
from torch import Tensor

from fastadv._checks import check_number
from fastadv.errors import InputError

PerRow = float | Tensor
Box = tuple[float, float]
NO_BOX = (-inf, inf)
"""The box that clips nothing."""
# the norms that kernels tell apart by name, with their exponents (kNorms in csrc/kernels.h)
ORDERS = {"linf": inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}

# float64 sums taken in another order differ by this factor; a point that exceeds the radius by no more
# counts as inside and is not moved
ROUNDING = 1 + 1e-13


def check_like(first: Tensor, **others: Tensor) -> None:
    """Raise InputError unless all tensors have shape, dtype and device of `first`, a floating [B, ...]."""
    if first.dim() < 2 or not first.is_floating_point():
        raise InputError(
            "expected a floating batch [B, ...] of rank >= 2, "
            f"got {first.dtype} of shape {tuple(first.shape)}; add a batch dimension"
        )
    shape, dtype, device = first.shape, first.dtype, first.device
    for name, other in others.items():
        if other.dtype is not dtype or other.shape != shape or other.device != device:
            raise InputError(
                f"{name}: expected {dtype} {tuple(shape)} on {device} like the first argument, "
                f"got {other.dtype} {tuple(other.shape)} on {other.device}; convert it first"
            )


def check_kind(first: str, like: Tensor, **others: Tensor) -> None:
    """Raise InputError unless all tensors have the dtype and device of `like`, whose name is `first`."""
    for name, other in others.items():
        if other.dtype != like.dtype or other.device != like.device:
            raise InputError(
                f"{name}: expected {like.dtype} on {like.device} like {first}, "
                f"got {other.dtype} on {other.device}; convert it first"
            )


def check_tensor(
    name: str, value: Tensor, shape: tuple[int | str, ...], dtype: torch.dtype | None,
    like: Tensor | None = None,
) -> None:  # fmt: skip
    """Raise InputError unless a tensor has the shape, where a letter is any length, and the dtype.

    None is any floating dtype. Where a tensor is given it is to be on the device of that.
    """
    fits = value.shape == shape or (
        value.dim() == len(shape)
        and all(isinstance(n, str) or n == length for n, length in zip(shape, value.shape, strict=True))
    )
    kind = value.is_floating_point() if dtype is None else value.dtype == dtype
    if fits and kind and (like is None or value.device == like.device):
        return
    expected = "floating" if dtype is None else str(dtype).removeprefix("torch.")
    there, here = ("", "") if like is None else (f" on {like.device}", f" on {value.device}")
    raise InputError(
        f"{name}: expected {expected} [{', '.join(map(str, shape))}]{there}, "
        f"got {value.dtype} {[*value.shape]}{here}"
    )


def check_column(name: str, value: Tensor, batch: Tensor, dtype: torch.dtype) -> None:
    """Raise InputError unless `value` has one element of that dtype for each row of the batch."""
    check_tensor(name, value, batch.shape[:1], dtype, batch)


def limits(box: Box, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """Return (lo, hi) of a box as `dtype` holds it; either may be infinite. InputError unless lo < hi."""
    try:
        lo, hi = map(float, box)
    except (TypeError, ValueError):
        lo = hi = float("nan")
    if not lo < hi:
        raise InputError(f"box: expected (lo, hi) with lo < hi, got {box!r}")
    return held(lo, dtype), held(hi, dtype)


def held(value: float, dtype: torch.dtype) -> float:
    """Return the number of that dtype nearest to `value`: a point at the edge of the box is not beyond it."""
    if (-256 <= value <= 256 and value % 1 == 0) or not isfinite(value):
        return value
    about = torch.finfo(dtype)
    unit = max(ldexp(about.eps, frexp(value)[1] - 1), about.tiny * about.eps)
    return round(value / unit) * unit


def per_row(name: str, value: PerRow, batch: Tensor) -> tuple[float, Tensor | None]:
    """Split a number >= 0, or a tensor [B] of such, into the (number, rows) pair of the op schemas."""
    if not isinstance(value, Tensor):
        if not (type(value) is float and value >= 0):  # a shortcut, since function calls dominate tiny ones
            value = check_number(name, value, 0, finite=False)
        return value, None
    if value.dim() == 0:
        value = value.expand(batch.shape[0])  # reading it would wait for the device
    if value.shape != batch.shape[:1] or value.is_complex():
        raise InputError(
            f"{name}: expected a number or one value a sample, shape ({batch.shape[0]},), "
            f"got {value.dtype} of shape {tuple(value.shape)}"
        )
    # values on a GPU stay unread: that would wait for the device
    if value.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((value >= 0).all()):
        raise InputError(f"{name}: expected values >= 0, got {float(value[~(value >= 0)][0])} among them")
    return 0.0, value.to(device=batch.device, dtype=torch.float64)


def like(values: Tensor, points: Tensor) -> Tensor:
    """Return values [n] or [n, C] with the rank of points."""
    return values.view(*values.shape, *[1] * (points.ndim - values.ndim))


def column(value: float, rows: Tensor | None, batch: Tensor) -> Tensor:
    """Turn the (number, rows) pair into a float64 tensor that broadcasts against `batch`."""
    if rows is None:
        return torch.full((), value, dtype=torch.float64, device=batch.device)
    return rows.to(torch.float64).reshape(-1, *[1] * (batch.dim() - 1))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a kernel computes in: float64 for float64, float32 for anything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def towards_zero(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 `value` towards zero to `dtype`; the result is still held as float64."""
    near = value.to(dtype)
    over = near.double().abs() > value.abs()
    return torch.where(over, torch.nextafter(near, torch.zeros_like(near)), near).double()


def add_towards(x: Tensor, shift: Tensor) -> Tensor:
    """Return x + shift, in float64, rounded towards x, so that |result - x| <= |shift| holds exactly."""
    near = (x.double() + shift).to(x.dtype)
    over = (near.double() - x.double()).abs() > shift.abs()
    return torch.where(over, torch.nextafter(near, x), near)


def clamp_box(x: Tensor, lo: float, hi: float) -> Tensor:
    """Clamp x to the box as x's dtype rounds it."""
    return x.clamp(lo, hi)
