"""The state of a search as a value: all that has one row a sample in a step, and is read or written there."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fastadv.attacks.core.points import taken
from fastadv.attacks.core.record import Change, Record, Rows
from fastadv.attacks.core.task import SAMPLES, Task


@dataclass(frozen=True, eq=False)
class State:
    """Samples in a step: it reads `task`, `aims` and `places`, and writes `best` and `rows`.

    Attributes:
        task: of these samples alone.
        aims: int64 [n], the classes to which losses lead; None are the targets of the task.
        places: int64 [n], rows of the caller's batch.
        best: the best point of each sample.
        rows: what the rule remembers.
    """

    task: Task
    aims: Tensor | None
    places: Tensor
    best: Record
    rows: Rows

    def take(self, index: Tensor) -> "State":
        """Return the state of the samples int64 [m]."""
        rows = self.rows.each(lambda _, value: taken(value, index))
        best = self.best.take(index)
        return State(self.task.take(index), taken(self.aims, index), self.places[index], best, rows)

    def each(self, change: Change) -> "State":
        """Return the state with what `change` makes of each tensor, by name, to be written where it lies."""
        task, radius = self.task, self.task.threat.radii
        held = {name: value for name in SAMPLES if (value := getattr(task, name)) is not None}
        samples: dict[str, Any] = {name: change(name, value) for name, value in held.items()}
        threat = task.threat if radius is None else task.threat.resized(change("radius", radius))
        return State(
            replace(task, threat=threat, **samples),
            None if self.aims is None else change("aims", self.aims),
            change("places", self.places),
            self.best.each(lambda name, value: change(f"best.{name}", value)),
            self.rows.each(lambda name, value: change(f"rows.{name}", value)).in_place(),
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that has one row a sample, by name."""
        held = dict[str, Tensor]()
        self.each(lambda name, value: held.setdefault(name, value))
        return held

    def on(self, tensors: dict[str, Tensor]) -> "State":
        """Return the state that has other `tensors`, of as many samples as these have rows."""
        return self.each(lambda name, _: tensors[name])
