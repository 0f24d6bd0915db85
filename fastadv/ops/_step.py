"""What the steps share: the schema, the rest of the card and the check of the arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.ops._rows import Box, PerRow, check_like, check_tensor, limits, per_row
from fastadv.ops._samples import step_samples, within
from fastadv.ops.registration.library import Sample, register


def register_step(
    name: str, summary: str, reference: Callable[..., Tensor], flops: int, **others: Any
) -> None:
    """Register a step that takes `flops` operations an element; `others` are fields of its card."""
    usual: dict[str, Any] = {
        "samples": step_samples,
        "compare": within(4, 3e-7),
        "no_gradient": "an attack's step is not differentiated",
    }
    register(
        name=name,
        schema="(Tensor x_adv, Tensor grad, Tensor x, float radius, float step_size, float lo, float hi, "
        "Tensor? radius_rows=None, Tensor? step_size_rows=None) -> Tensor",
        summary=summary,
        reference=reference,
        in_place=True,
        bytes_moved=lambda x_adv, *rest: 4 * x_adv.nbytes,
        flops=lambda x_adv, *rest: flops * x_adv.numel(),
        **usual | others,
    )


def may_be_narrow(grad: Tensor, x: Tensor) -> bool:
    """Return whether the gradient is in bfloat16 and the points in float32, as in a bfloat16 search."""
    return grad.dtype is torch.bfloat16 and x.dtype is torch.float32


def check_points(x_adv: Tensor, grad: Tensor, x: Tensor) -> None:
    """Raise InputError unless the three tensors match; the gradient alone may be in bfloat16."""
    if may_be_narrow(grad, x_adv):
        check_like(x_adv, x=x)
        check_tensor("grad", grad, x.shape, torch.bfloat16, x)
    else:
        check_like(x_adv, grad=grad, x=x)


def arguments(
    x_adv: Tensor, grad: Tensor, x: Tensor, radius: PerRow, step_size: PerRow, box: Box, narrow: bool = False
) -> Sample:
    """Return the checked arguments in the schema's order; `narrow`: the op takes a bfloat16 gradient."""
    check_points(x_adv, grad, x)
    if not narrow and may_be_narrow(grad, x_adv):
        grad = grad.float()
    radius, radius_rows = per_row("radius", radius, x)
    step_size, step_size_rows = per_row("step_size", step_size, x)
    return x_adv, grad, x, radius, step_size, *limits(box, x.dtype), radius_rows, step_size_rows
