"""Events as a run of Weights & Biases."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fastadv._extras import need_peer
from fastadv.loggers.event import flat, place_of


class WandB:
    """Log every event to a run. Needs the package wandb.

    Args:
        options: those of `wandb.init`, which starts the run.
    """

    def __init__(self, **options: Any) -> None:
        need_peer("wandb")
        self.run = import_module("wandb").init(**options)

    def on_event(self, event: Mapping[str, Any], /) -> None:
        """Log one event at its step or epoch, or else at the next step.

        Args:
            event: numbers and text by name.
        """
        self.run.log(flat(event), step=place_of(event))
