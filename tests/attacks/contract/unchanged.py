"""What an attack must leave as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tests.zoo.state import State


@contextmanager
def unchanged(model: nn.Module, *tensors: Tensor) -> Iterator[None]:
    """Whatever an attack could disturb of the model, the inputs and the process is as it was before."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    kept = [(one, one._version, one.detach().clone()) for one in (*grads, *tensors)]
    before = State.of(model)
    try:
        yield
    finally:
        before.check(model)
        assert all(one._version == version and torch.equal(one, value) for one, version, value in kept)
