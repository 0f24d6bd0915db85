"""What the step ops share: the schema, the fake, the C++ adapter and the argument check. Each op page adds its mathematics."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv._library import Sample, extension
from fastadv.ops._rows import PerRow, check_like, limits, per_row, rows_array, with_arrays, with_rows

SCHEMA = (
    "(Tensor x_adv, Tensor grad, Tensor x, float radius, float step_size, float lo, float hi, "
    "Tensor? radius_rows=None, Tensor? step_size_rows=None) -> Tensor"
)


def fake(x_adv: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x_adv)


def cpu(name: str, ordered: bool = False) -> Callable[..., None]:
    """The adapter that calls the C++ step kernel `name` on NumPy views; `ordered` where ties go to the lower index."""
    kernel, call = getattr(extension, name, None), with_rows if ordered else with_arrays

    def run(
        out: Tensor, x_adv: Tensor, grad: Tensor, x: Tensor, radius: float, step_size: float, lo: float, hi: float,
        radius_rows: Tensor | None = None, step_size_rows: Tensor | None = None,
    ) -> None:  # fmt: skip
        assert kernel is not None
        radii = None if radius_rows is None else rows_array(radius_rows)
        steps = None if step_size_rows is None else rows_array(step_size_rows)
        call(kernel, out, (x_adv, grad, x), radius, radii, step_size, steps, lo, hi)

    return run


def arguments(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: tuple[float, float]
) -> Sample:
    """The checked public arguments, in the schema's order."""
    check_like(x_adv, grad=grad, x=x)
    radius, radius_rows = per_row("radius", radius, x)
    step_size, step_size_rows = per_row("step_size", step_size, x)
    return x_adv, grad, x, radius, step_size, *limits(box), radius_rows, step_size_rows
