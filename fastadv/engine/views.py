"""`view`, where activations are channels-last."""

from typing import Any

import torch
from torch import Tensor

from fastadv.engine.rewrite import Rewrite


def view_or_reshape(input: Tensor, *shape: Any, **named: Any) -> Any:
    """`torch.Tensor.view`; `reshape` where the memory is in another order, which the model cannot know."""
    if named or input.is_contiguous() or (shape and isinstance(shape[0], torch.dtype)):
        return NotImplemented
    try:
        return input.view(*shape)
    except RuntimeError:
        return input.reshape(*shape)


VIEWS = Rewrite("views", "view as reshape", {Tensor.view: view_or_reshape}, exact=True)
