"""What the components of an attack did to a data set: which broke each sample, and at what cost."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from torch import Tensor

from fastadv.attacks import Cost


@dataclass(frozen=True)
class Components:
    """An attack that consists of others, such as AutoAttack, component by component.

    by     int64 [n]; the component that broke each sample, as its place among `costs`; -1 where none did.
    costs  what each component did, by its name and in the order of their runs.
    """

    by: Tensor = field(repr=False)
    costs: Mapping[str, Cost]

    def to_dict(self) -> dict[str, Any]:
        """Return the costs, JSON-able."""
        return {name: asdict(cost) for name, cost in self.costs.items()}

    def cells(self) -> list[list[str]]:
        """Return the costs as text, line by line, the head first."""
        lines = [["component", "samples", "broken", "forwards", "backwards", "seconds"]]
        for name, cost in self.costs.items():
            *counts, seconds = astuple(cost)
            lines.append([name, *(f"{count:,}" for count in counts), f"{seconds:.1f}"])
        return lines


def added(first: Cost, second: Cost) -> Cost:
    """Return the cost of both."""
    return Cost(*(a + b for a, b in zip(astuple(first), astuple(second), strict=True)))
