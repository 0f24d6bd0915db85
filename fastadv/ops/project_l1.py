"""project_l1: argmin ||z - x_adv||_2 over {z : ||z - x||_1 <= radius, lo <= z <= hi} (see _projection.py)."""

from torch import Tensor

from fastadv.ops import _projection
from fastadv.ops._rows import Box, PerRow
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    return _projection.on_l1(x_adv.double(), x, radius, lo, hi, radius_rows)


_projection.register_projection(
    "project_l1", "argmin ‖z − x_adv‖₂ over {‖z − x‖₁ ≤ r} ∩ box", reference, flops=25
)


def project_l1(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box = (0.0, 1.0)) -> Tensor:
    """Project points on the L1 ball around x, inside the box.

    This is the true projection (soft threshold, with the box), not a rescaling: [3, 1, 0.5] goes to [1, 0, 0]
    at radius 1 around 0 in a box that holds them.

    Args:
        others: as in `project_l2`.

    Returns:
        The nearest such points in the Euclidean norm, like x_adv.

    Source:
        Duchi et al. 2008, "Efficient Projections onto the L1-Ball for Learning in High Dimensions".
    """
    return op("project_l1")(*_projection.arguments(x_adv, x, radius, box))
