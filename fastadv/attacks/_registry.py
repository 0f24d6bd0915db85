"""What the contract tests, the command line and the documentation need to know of an attack."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastadv.attacks._result import AttackResult
from fastadv.threat import THREATS


@dataclass(frozen=True)
class Attack:
    """An attack function and what it supports.

    `norms` are those of the threats it takes; `targeted` whether it takes targets; `minimal` whether it looks
    for the nearest success rather than the strongest point of a ball; `quick` arguments for a short run;
    `needs` what the model must be beyond a classifier, empty where any will do.
    """

    run: Callable[..., AttackResult]
    norms: tuple[str, ...] = tuple(THREATS)
    targeted: bool = True
    minimal: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.run.__name__

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return inspect.getdoc(self.run).splitlines()[0]  # type: ignore[union-attr]

    def takes(self, option: str) -> bool:
        """Whether the function has this argument."""
        return option in inspect.signature(self.run).parameters
