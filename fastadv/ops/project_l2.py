"""project_l2: argmin ||z - x_adv||_2 over {z : ||z - x||_2 <= radius, lo <= z <= hi} (see _projection.py)."""

from torch import Tensor

from fastadv.ops import _projection
from fastadv.ops._rows import Box, PerRow
from fastadv.ops.registration.library import op


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    return _projection.on_l2(x_adv.double(), x, radius, lo, hi, radius_rows)


_projection.register_projection(
    "project_l2", "argmin ‖z − x_adv‖₂ over {‖z − x‖₂ ≤ r} ∩ box", reference, flops=8
)


def project_l2(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box = (0.0, 1.0)) -> Tensor:
    """Project points on the L2 ball around x, inside the box.

    Rescaling followed by clamping would be no projection.

    Args:
        x_adv: floating [B, ...].
        x: like x_adv, inside the box.
        radius: in input units, a number or [B]; may be inf.
        box: (lo, hi) of valid inputs.

    Returns:
        The nearest points of ball and box in the Euclidean norm, like x_adv.

    Raises:
        InputError: tensors do not match, or the radius is negative.

    Example:
        >>> import torch, fastadv as fa
        >>> x = torch.zeros(1, 2)
        >>> fa.ops.project_l2(torch.tensor([[3.0, 4.0]]), x, 0.5, box=(-1, 1))
        tensor([[0.3000, 0.4000]])
    """
    return op("project_l2")(*_projection.arguments(x_adv, x, radius, box))
