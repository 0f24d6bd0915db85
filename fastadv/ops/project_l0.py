"""project_l0: argmin ||z - x_adv||_2 over {z : at most `radius` coordinates differ from x, lo <= z <= hi}.

Keeping coordinate i (clamped to the box: c_i) instead of setting it back to x_i makes the squared distance
smaller by (u_i - x_i)^2 - (u_i - c_i)^2, where u is x_adv. The `radius` coordinates of the largest gains are
kept, the lower index first among equals.
"""

import torch
from torch import Tensor

from fastadv.ops import _projection
from fastadv.ops._rows import PerRow, clamp_box, column
from fastadv.ops._samples import project_samples
from fastadv.ops.registration.library import OpCard, Sample, op, register


def reference(
    x_adv: Tensor, x: Tensor, radius: float, lo: float, hi: float, radius_rows: Tensor | None = None
) -> Tensor:
    clamped = clamp_box(x_adv, lo, hi).flatten(1)
    point, origin, kept = x_adv.double().flatten(1), x.double().flatten(1), clamped.double()
    gain = (point - origin).square() - (point - kept).square()
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep = rank < column(radius, radius_rows, gain).floor()
    return torch.where(keep, clamped, x.flatten(1)).reshape(x.shape)


def compare(actual: Tensor, expected: Tensor, args: Sample) -> None:
    assert torch.equal(actual, expected)


register(
    OpCard(
        name="project_l0",
        schema=_projection.SCHEMA,
        summary="argmin ‖z − x_adv‖₂ over {‖z − x‖₀ ≤ r} ∩ box",
        reference=reference,
        fake=_projection.fake,
        samples=project_samples,
        compare=compare,
        ordered=True,
        no_gradient=_projection.NO_GRADIENT,
        bytes_moved=lambda x_adv, *rest: 3 * x_adv.numel() * x_adv.element_size(),
        flops=lambda x_adv, *rest: 10 * x_adv.numel(),
    )
)


def project_l0(x_adv: Tensor, x: Tensor, radius: PerRow, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Return euclidean projection of x_adv [B, ...] on the points of the box that differ from x in few
    coordinates.

    `radius` is their greatest number, one for all samples or [B]. A fractional radius is rounded down. Raises
    InputError on mismatched tensors or a negative radius.
    """
    result: Tensor = op("project_l0")(*_projection.arguments(x_adv, x, radius, box))
    return result
