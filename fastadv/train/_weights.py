"""Weights that change for a moment, and the moving average of weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastadv._torch import lerp_


@contextmanager
def put_back(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let weights change inside, and restore them bit for bit, which a subtraction would not do."""
    before = [(weight, weight.detach().clone()) for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, value in before:
                weight.copy_(value)


class MovingAverage:
    """average = d · average + (1 - d) · weights after every batch, for the weights that are trained.

    d is `decay`; after n batches at most (1 + n) / (10 + n), so that the first weights fade soon. Buffers,
    such as the statistics of BatchNorm, are always the model's own. Averages are held in float32 at least.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        with torch.inference_mode(False):
            self.weights = {
                name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
                for name, weight in model.named_parameters()
                if weight.requires_grad
            }

    def _trained(self) -> list[nn.Parameter]:
        return [weight for name, weight in self.model.named_parameters() if name in self.weights]

    def update(self, count: int) -> None:
        """Take in the weights after `count` batches."""
        averages = list(self.weights.values())
        with torch.no_grad():
            current = [w.to(a.dtype) for w, a in zip(self._trained(), averages, strict=True)]
            lerp_(averages, current, 1 - min(self.decay, (1 + count) / (10 + count)))

    def restore(self, weights: dict[str, Tensor]) -> None:
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Put the averages into the model, inside."""
        with torch.inference_mode(False), put_back(self._trained()):
            with torch.no_grad():
                for weight, average in zip(self._trained(), self.weights.values(), strict=True):
                    weight.copy_(average)
            yield
