"""Events as scalars of TensorBoard."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from fastadv._extras import need_peer
from fastadv.loggers.event import flat, place_of


class TensorBoard:
    """Write the numbers of every event as scalars, its text as text. Needs the package tensorboard.

    Args:
        folder: where TensorBoard reads.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        need_peer("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self.count = 0

    def on_event(self, event: Mapping[str, Any], /) -> None:
        """Write one event, at its own step or epoch or else at the number of events before it.

        Args:
            event: numbers and text by name.
        """
        place = place_of(event)
        place = self.count if place is None else place
        self.count += 1
        for name, value in flat(event).items():
            if isinstance(value, str):
                self.writer.add_text(name, value, place)
            else:
                self.writer.add_scalar(name, float(value), place)
        self.writer.flush()
