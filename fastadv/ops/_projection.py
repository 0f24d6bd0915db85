"""What the projection ops share: the schema, the fake, the C++ adapter and the argument check. Each op page adds its mathematics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv._library import Sample, extension
from fastadv.ops._rows import PerRow, check_like, limits, per_row, rows_array, with_arrays, with_rows

SCHEMA = "(Tensor x_adv, Tensor x, float radius, float lo, float hi, Tensor? radius_rows=None) -> Tensor"
NO_GRADIENT = "attacks project points, not graphs"


def fake(x_adv: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x_adv)


def cpu(name: str, ordered: bool = False) -> Callable[..., None]:
    """The adapter that calls the C++ projection kernel `name` on NumPy views; `ordered` where ties go to the lower index."""
    kernel, call = getattr(extension, name, None), with_rows if ordered else with_arrays

    def run(
        out: Tensor,
        x_adv: Tensor,
        x: Tensor,
        radius: float,
        lo: float,
        hi: float,
        radius_rows: Tensor | None = None,
    ) -> None:
        assert kernel is not None
        call(kernel, out, (x_adv, x), radius, rows_array(radius_rows), lo, hi)

    return run


def arguments(x_adv: Tensor, x: Tensor, radius: PerRow, box: tuple[float, float]) -> Sample:
    """The checked public arguments, in the schema's order."""
    check_like(x_adv, x=x)
    radius, radius_rows = per_row("radius", radius, x)
    return x_adv, x, radius, *limits(box), radius_rows
