"""project_l0: argmin ||z - x_adv||_2 over {z : at most `radius` coordinates differ from x, lo <= z <= hi}.

Keeping coordinate i (clamped to the box: c_i) instead of x_i gains (u_i - x_i)^2 - (u_i - c_i)^2, where u is
x_adv. The `radius` largest gains are kept, the lower index first among equals.
"""

import torch
from torch import Tensor

from fastadv.ops import _projection
from fastadv.ops._rows import Box, PerRow, clamp_box, column
from fastadv.ops._samples import within
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    clamped = clamp_box(x_adv, lo, hi).flatten(1)
    point, origin, kept = x_adv.double().flatten(1), x.double().flatten(1), clamped.double()
    gain = (point - origin).square() - (point - kept).square()
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep = rank < column(radius, radius_rows, gain).floor()
    return torch.where(keep, clamped, x.flatten(1)).reshape(x.shape)


_projection.register_projection(
    "project_l0", "argmin ‖z − x_adv‖₂ over {‖z − x‖₀ ≤ r} ∩ box", reference, flops=10,
    compare=within(0), ordered=True,
)  # fmt: skip


def project_l0(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box = (0.0, 1.0)) -> Tensor:
    """Project points on the points of the box that differ from x in at most `radius` coordinates.

    Args:
        radius: a number or [B]; a fraction is rounded down.
        others: as in `project_l2`.

    Returns:
        The nearest such points in the Euclidean norm, like x_adv.
    """
    return op("project_l0")(*_projection.arguments(x_adv, x, radius, box))
