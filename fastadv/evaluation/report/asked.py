"""What the page asks the model once more: its logits, and its margins along an attack."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks.core import Criterion
from fastadv.data._batches import device_for
from fastadv.engine import Plain, Prepared
from fastadv.engine.prepared import CleanPass

BATCH = 256


def on_device(frozen: Prepared, x: Tensor) -> Tensor:
    """Return x where the model is."""
    device = device_for(frozen)
    return x if device is None else x.to(device)


def logits(frozen: Prepared, x: Tensor) -> Tensor:
    """Return the logits [n, K] of the model as given, on the CPU."""
    parts = torch.split(x, BATCH) if len(x) else ()
    return torch.cat([frozen.verdict(on_device(frozen, part)).cpu() for part in parts])


def margins(given: Tensor, y: Tensor) -> Tensor:
    """Return [n], the largest logit of another class less that of the label."""
    return Criterion().margin(given, y, None)


class Watched(Plain):
    """The model as given, which keeps the margin of each sample at each gradient, by the sample's id."""

    def __init__(self, model: nn.Module | Prepared, ids: Tensor) -> None:
        super().__init__(model)
        self.margins: dict[int, list[float]] = {number: [] for number in ids.tolist()}
        self._ids: list[int] = []

    def asks_for(self, ids: Tensor, each: int = 1) -> None:
        """Take down whose rows come next, as the search of an attack tells."""
        self._ids = ids.tolist()

    def clean_pass(self, x: Tensor) -> CleanPass | None:
        return None  # or its margins would not be kept

    def input_gradient(
        self, x: Tensor, y: Tensor | None, *args: Any, **more: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do as the model does, and keep the margins."""
        found = super().input_gradient(x, y, *args, **more)
        if y is not None and len(self._ids) == len(x):
            for number, value in zip(self._ids, margins(found[1], y).tolist(), strict=True):
                if math.isfinite(value):
                    self.margins[number].append(value)
        return found
