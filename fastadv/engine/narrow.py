"""Search twins that round more than the model as given."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from fastadv._torch import NormBase, convert
from fastadv.engine.form import Form
from fastadv.engine.options import Options
from fastadv.engine.precision import HALF, has_tf32


def may_take_tf32(module: nn.Module | None, device: torch.device | None) -> bool:
    """Return whether anything of the module would be computed in TF32."""
    return (
        module is not None
        and device is not None
        and has_tf32(device)
        and any(weight.dtype == torch.float32 for weight in module.parameters())
    )


def narrowed(form: Form, options: Options) -> Form:
    """Return the form in the precision asked for; half precision converts the weights of its model in
    place.
    """
    half = HALF.get(options.precision)
    if half is None:
        return replace(form, tf32=True)
    model = _converted(cast(nn.Module, form.model), half)
    for pair in form.rewriting.folds or ():
        pair.cast(half)
    return replace(form, model=torch.compile(model) if options.compile else model, weights=half)


def _converted(search: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return `search` in half precision, in place; normalization layers with statistics stay in float32."""
    kept = {
        id(tensor)
        for part in search.modules()
        if isinstance(part, NormBase)
        for tensor in (*part.parameters(), *part.buffers())
    }

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float32 if id(tensor) in kept else dtype)

    convert(search, converted)
    return search
