"""The values of a copy's tensors, taken from the model again and again while it trains."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Values:
    """The parameters and buffers of a copy, beside those of the model from which they come."""

    def __init__(self, model: nn.Module, copied: nn.Module) -> None:
        """Take a model and a copy made `apart` from it."""
        self.model, self.copied = model, copied

    def take(self) -> None:
        """Write the model's values into the copy, in its precision and layout; also those that it shares.

        So each tensor's version tells what was made of it, such as weights folded or transformed, to be old.
        """
        with torch.inference_mode(False), torch.no_grad():
            for theirs, own in self._pairs():
                own.copy_(theirs)

    def origin(self) -> dict[int, Tensor]:
        """Return the model's tensors by the ids of the copy's."""
        return {id(own): theirs for theirs, own in self._pairs()}

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        own = dict(_tensors(self.copied))
        # looked up each time, since a change of precision replaces buffers
        for name, theirs in _tensors(self.model):
            yield theirs, own[name]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
