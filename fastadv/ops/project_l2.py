"""project_l2: argmin ||z - x_adv||_2 over {z : ||z - x||_2 <= radius, lo <= z <= hi} (see _l2.py)."""

from torch import Tensor

from fastadv.ops import _l2, _projection
from fastadv.ops._rows import PerRow
from fastadv.ops._samples import assert_ulps, project_samples
from fastadv.ops.registration.library import OpCard, Sample, op, register


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    return _l2.project(x_adv.double(), x, radius, lo, hi, radius_rows)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert_ulps(actual, expected, 4, floor=3e-7)


register(
    OpCard(
        name="project_l2",
        schema=_projection.SCHEMA,
        summary="argmin ‖z − x_adv‖₂ over {‖z − x‖₂ ≤ r} ∩ box",
        reference=reference,
        fake=_projection.fake,
        samples=project_samples,
        compare=compare,
        no_gradient=_projection.NO_GRADIENT,
        bytes_moved=lambda x_adv, *rest: 3 * x_adv.numel() * x_adv.element_size(),
        flops=lambda x_adv, *rest: 8 * x_adv.numel(),
    )
)


def project_l2(x_adv: Tensor, x: Tensor, radius: PerRow, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return euclidean projection of x_adv [B, ...] on the L2 ball of `radius` around x, inside the box.

    `radius` is a number or [B], and may be inf.

    Not rescaling followed by clamping, which is no projection. x must lie inside the box. Raises InputError
    on mismatched tensors or a negative radius.
    """
    result: Tensor = op("project_l2")(*_projection.arguments(x_adv, x, radius, box))
    return result
