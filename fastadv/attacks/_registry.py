"""What the contract tests, the command line and the documentation need to know of an attack."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastadv.attacks._result import AttackResult
from fastadv.threat import THREATS


@dataclass(frozen=True)
class Attack:
    """An attack function with its reach.

    `norms` are those of the threats it takes; `targeted` whether it takes targets; `minimal` whether it looks for the
    nearest success rather than the strongest point of a ball; `quick` arguments for a short run.
    """

    run: Callable[..., AttackResult]
    norms: tuple[str, ...] = tuple(THREATS)
    targeted: bool = True
    minimal: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
