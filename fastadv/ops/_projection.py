"""Schema, fake and argument check of the projection ops."""

from typing import Any

import torch
from torch import Tensor

from fastadv.ops._rows import PerRow, check_like, limits, per_row
from fastadv.ops.registration.library import Sample

SCHEMA = "(Tensor x_adv, Tensor x, float radius, float lo, float hi, Tensor? radius_rows=None) -> Tensor"
NO_GRADIENT = "attacks project points, not graphs"


def fake(x_adv: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x_adv)


def arguments(x_adv: Tensor, x: Tensor, radius: PerRow, box: tuple[float, float]) -> Sample:
    """Check the public arguments and return them in the schema's order."""
    check_like(x_adv, x=x)
    radius, radius_rows = per_row("radius", radius, x)
    return x_adv, x, radius, *limits(box), radius_rows
