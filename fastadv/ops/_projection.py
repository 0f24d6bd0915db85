"""What the projections share: the schema, the rest of the card and the check of the arguments."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastadv.ops._rows import Box, PerRow, check_like, limits, per_row
from fastadv.ops._samples import project_samples, within
from fastadv.ops.registration.library import OpCard, Sample, register


def register_projection(
    name: str, summary: str, reference: Callable[..., Tensor], flops: int, **others: Any
) -> None:
    """Register a projection that takes `flops` operations an element; `others` are fields of its card."""
    register(
        OpCard(
            name=name,
            schema="(Tensor x_adv, Tensor x, float radius, float lo, float hi, Tensor? radius_rows=None)"
            " -> Tensor",
            summary=summary,
            reference=reference,
            samples=project_samples,
            no_gradient="attacks project points, not graphs",
            bytes_moved=lambda x_adv, *rest: 3 * x_adv.nbytes,
            flops=lambda x_adv, *rest: flops * x_adv.numel(),
            **{"compare": within(4, 3e-7)} | others,
        )
    )


def arguments(x_adv: Tensor, x: Tensor, radius: PerRow, box: Box) -> Sample:
    """Check the public arguments and return them in the schema's order."""
    check_like(x_adv, x=x)
    radius, radius_rows = per_row("radius", radius, x)
    return x_adv, x, radius, *limits(box), radius_rows
