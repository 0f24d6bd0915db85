"""project_l2: argmin ||z - x_adv||_2 over {z : ||z - x||_2 <= radius, lo <= z <= hi} (see _l2.py)."""

from torch import Tensor

from fastadv.ops import _l2, _projection
from fastadv.ops._rows import Box, PerRow
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    return _l2.project(x_adv.double(), x, radius, lo, hi, radius_rows)


_projection.register_projection(
    "project_l2", "argmin ‖z − x_adv‖₂ over {‖z − x‖₂ ≤ r} ∩ box", reference, flops=8
)


def project_l2(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box = (0.0, 1.0)) -> Tensor:
    """Return euclidean projection of x_adv [B, ...] on the L2 ball of `radius` around x, inside the box.

    `radius` is a number or [B], and may be inf; x must lie inside the box. Rescaling followed by clamping
    would be no projection. Raises InputError on mismatched tensors or a negative radius.
    """
    return op("project_l2")(*_projection.arguments(x_adv, x, radius, box))
