"""What an evaluation tells `on_event` while it runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import OnEvent
from fastadv.evaluation._outcome import Part
from fastadv.runs import processes


class Events:
    """Add up what each attack has done so far, and tell it after every batch.

    on_event: called in the first process alone; None tells nobody.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = None if processes.rank() else on_event
        # of each attack: samples, those right at first, those that it left right, seconds
        self._done: dict[str, Tensor] = {}

    def finished(self, name: str, known: Mapping[str, Tensor], part: Part) -> None:
        """Tell that an attack is done with a batch, whose `correct` [B] is in `known`."""
        if self._on_event is None:
            return
        right = known["correct"]
        counts = (len(right), int(right.sum()), int((right & ~part["broken"]).sum()), float(part["seconds"]))
        done = self._done.get(name, torch.zeros(4, dtype=torch.float64)) + torch.tensor(counts).double()
        self._done[name] = done
        samples, clean, robust, seconds = done.tolist()
        event: dict[str, Any] = {
            "step": int(samples),
            "attack": name,
            "clean_accuracy": clean / samples,
            "robust_accuracy": {name: robust / samples},
            "seconds": {name: seconds},
        }
        self._on_event(event)
