"""Rows in device memory, values for each row, and rounding that stays in the ball, for all kernels.

bfloat16 is widened and rounded on its bits, so that the interpreter and every GPU give the same ones.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.ops.triton import _row
from fastadv.ops.triton._tuned import Width, width

# No fused multiply-add: products and sums round one by one, as in the references.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
# A row is walked in blocks of this many elements: four a thread, 16 bytes of float32.
WIDTH = 1024


def is_interpreted() -> bool:
    knobs = getattr(triton, "knobs", None)  # since 3.4
    return os.environ.get("TRITON_INTERPRET") == "1" if knobs is None else bool(knobs.runtime.interpret)


_INT_MIN = tl.constexpr(-(2**31))


@triton.jit
def per_row(value, rows, row):
    """Read the (number, rows) pair of an op's schema as this row's float64."""
    if rows is None:
        return tl.full((), value, tl.float64)
    else:
        return tl.load(rows + row)


@triton.jit
def load(pointer, at, mask):
    """Load elements as float32."""
    value = tl.load(pointer + at, mask=mask, other=0.0)
    if pointer.dtype.element_ty == tl.bfloat16:
        return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return value


@triton.jit
def store(pointer, at, value, mask):
    """Write float32 values that the stored dtype holds exactly."""
    if pointer.dtype.element_ty == tl.bfloat16:
        tl.store(
            pointer + at,
            (value.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True),
            mask=mask,
        )
    else:
        tl.store(pointer + at, value, mask=mask)


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """Round a float32 `value` to nearest even in `dtype`, held as float32."""
    if dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return tl.where(value == value, near.to(tl.float32, bitcast=True), value)
    else:
        return value


@triton.jit
def edge(value, dtype: tl.constexpr):
    """Round a float64 edge of the box to `dtype`, held as float32."""
    return rounded(tl.full((), value, tl.float64).to(tl.float32), dtype)


@triton.jit
def inner(low, high):
    """Return a value inside the box, for lanes past the end of a row."""
    return clamp(tl.zeros((), tl.float32), low, high)


@triton.jit
def read_points(source, at, mask):
    """Return (point, x); past the row's end both are `inner`, which lies in the box."""
    x_adv, x, inner = source
    return tl.where(mask, load(x_adv, at, mask), inner), tl.where(mask, load(x, at, mask), inner)


@triton.jit
def clamp(value, low, high):
    """Clamp to [lo, hi]; NaN stays NaN."""
    return tl.where(value < low, low, tl.where(value > high, high, value))


@triton.jit
def next_towards(value, aim, dtype: tl.constexpr):
    """Return the neighbor of `value` in `dtype` towards `aim`, which must differ from it."""
    bits = value.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, _INT_MIN - bits, bits)
    ulp: tl.constexpr = 0x10000 if dtype == tl.bfloat16 else 1
    order = tl.where(value > aim, order - ulp, order + ulp)
    return tl.where(order < 0, _INT_MIN - order, order).to(tl.float32, bitcast=True)


@triton.jit
def towards_zero(value):
    """Round float64 towards zero to float32."""
    near = value.to(tl.float32)
    return tl.where(
        tl.abs(near.to(tl.float64)) > tl.abs(value), next_towards(near, tl.zeros_like(near), tl.float32), near
    )


@triton.jit
def add_towards(x, shift, dtype: tl.constexpr):
    """Return x + shift rounded towards x, so that |result - x| <= |shift|; x float32, shift float64."""
    origin = x.to(tl.float64)
    near = rounded((origin + shift).to(tl.float32), dtype)
    over = tl.abs(near.to(tl.float64) - origin) > tl.abs(shift)
    return tl.where(over, next_towards(near, x, dtype), near)


def rows64(rows: Tensor | None) -> Tensor | None:
    """Return one float64 value per row, as the kernels read it."""
    return None if rows is None else rows.to(torch.float64).contiguous()


def _as_they_are(tensors: tuple[Tensor, ...], ordered: bool) -> bool:
    """Return whether all are dense, or all channels-last where ties are not broken by index (`ordered`)."""
    if all(t.is_contiguous() for t in tensors):
        return True
    last = all(t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
    return last and not ordered


def in_one_layout(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors into one dense layout, copying those in another."""
    return tensors if _as_they_are(tensors, ordered=False) else tuple(t.contiguous() for t in tensors)


def common_layout(out: Tensor, *inputs: Tensor, ordered: bool = False) -> tuple[Tensor, ...]:
    """Bring (target, *inputs) into one dense layout; the caller copies a target that is not `out`."""
    if _as_they_are((out, *inputs), ordered):
        return out, *inputs
    target = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    return target, *(t.contiguous() for t in inputs)


def start(kernel: Any, programs: int, out: Tensor, *args: Any, **options: Any) -> None:
    """Launch kernel(out, *args) in `programs` programs on the device of `out`; none for an empty batch."""
    if programs == 0:
        return
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        kernel[(programs,)](out, *args, **{**OPTIONS, **options})


def start_rows(
    kernel: Any, out: Tensor, *args: Any, block: int = WIDTH, chunks: int = 0, cols: int = 0
) -> None:
    """Launch kernel(out, *args), one program a row of `out`, in the measured width, or in registers."""
    options = _row.shape(cols, chunks) if chunks else None
    if options is None:
        options = width(kernel, out.device, Width(block, OPTIONS["num_warps"]))._asdict()
        options |= {"CHUNKS": 0} if chunks else {}
    start(kernel, len(out), out, *args, **options)


def over_rows(
    kernel: Any, out: Tensor, inputs: Sequence[Tensor], *rest: Any, ordered: bool = False, **options: int
) -> None:
    """Launch kernel(out, *inputs, cols, *rest), one program a row."""
    if out.numel() == 0:
        return
    target, *inputs_ = common_layout(out, *inputs, ordered=ordered)
    cols = out[0].numel()
    start_rows(kernel, target, *inputs_, cols, *rest, cols=cols, **options)
    if target is not out:
        out.copy_(target)


def projection_of(kernel: Any, **options: Any) -> Callable[..., None]:
    """Return the launcher of a projection, one program a row."""

    def launch(
        out: Tensor, x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float,
        radius_rows: Tensor | None = None,
    ) -> None:  # fmt: skip
        over_rows(kernel, out, (x_adv, x), radius, lo, hi, rows64(radius_rows), **options)

    return launch


def step_of(kernel: Any, **options: Any) -> Callable[..., None]:
    """Return the launcher of a step, one program a row."""

    def launch(
        out: Tensor, x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float,
        hi: float, radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
    ) -> None:  # fmt: skip
        rows = rows64(radius_rows), rows64(step_size_rows)
        over_rows(kernel, out, (x_adv, grad, x), radius, step_size, lo, hi, *rows, **options)

    return launch
