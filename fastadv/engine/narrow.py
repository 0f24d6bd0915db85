"""Search twins that round more than the model as given."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fastadv.engine.precision import has_tf32
from fastadv.engine.search_twin import SearchTwin


def may_take_tf32(module: nn.Module | None, device: torch.device | None) -> bool:
    """Whether anything of the module would be computed in TF32."""
    return (
        module is not None
        and device is not None
        and has_tf32(device)
        and any(weight.dtype == torch.float32 for weight in module.parameters())
    )


def to_half(twin: SearchTwin, dtype: torch.dtype, compiled: bool) -> None:
    """Let the twin compute with weights and activations in that dtype."""
    changed = _narrowed(cast(nn.Module, twin.model), dtype)
    for pair in twin.rewriting.folds or ():
        pair.cast(dtype)
    twin.use(torch.compile(changed) if compiled else changed, dtype)


def to_tf32(twin: SearchTwin) -> None:
    """Let the twin take products in TF32."""
    twin.tf32 = True


def _narrowed(search: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`search` in half precision, in place; normalization layers with statistics stay in float32."""
    kept = {
        id(tensor)
        for part in search.modules()
        if isinstance(part, _NormBase)
        for tensor in (*part.parameters(), *part.buffers())
    }

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float32 if id(tensor) in kept else dtype)

    search._apply(converted)  # type: ignore[no-untyped-call]
    return search
