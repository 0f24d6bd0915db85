"""What the contract tests, the command line and the documentation need to know of an attack."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeVar

from fastadv._checks import check_choice
from fastadv._extras import own
from fastadv.attacks.core.result import AttackResult
from fastadv.errors import InputError
from fastadv.threat import THREATS

F = TypeVar("F", bound=Callable[..., AttackResult])


@dataclass(eq=False)
class Attack:
    """An attack function and what it supports: its card in the registry.

    Args:
        run: the function.
        knowledge: what it asks of the model: "gradient", "score" (logits), "decision" (the class), or "none".
        kind: "budget" for the strongest point of a ball, "minimum" for the success nearest to x.
        norms: names of the threats that it takes, such as "linf"; (), the default, takes those that
            `takes_common` names.
        targeted: whether it takes targets.
        random: whether its result depends on a seed.
        paper: its source.
        quick: arguments for a short run, which tests use.
        oracle: further arguments, for a run that meets the tolerance.
        needs: of the criterion: a "loss", a "margin", a "decision", or "classes" with logits of their own,
            which criteria of other outputs have not. By default what `knowledge` and `kind` say.
        requires: what the model must be beyond a classifier; empty where any classifier will do.
        through: which maps of parameters (`fastadv.Through`) it serves: "any", those whose parameters
            are "images" alone, or "none"; "", the default, is what `takes_common` says.
        tolerance: on a linear model, the largest distance at which it breaks a sample, relative to the
            distance of the boundary.
    """

    run: Callable[..., AttackResult]
    knowledge: Literal["gradient", "score", "decision", "none"] = "gradient"
    kind: Literal["budget", "minimum"] = "budget"
    norms: tuple[str, ...] = ()
    targeted: bool = True
    random: bool = False
    paper: str = ""
    quick: Mapping[str, Any] = field(default_factory=dict)
    oracle: Mapping[str, Any] = field(default_factory=dict)
    needs: Literal["loss", "margin", "decision", "classes", ""] = ""
    requires: str = ""
    through: str = ""
    tolerance: float = 1.05

    def __post_init__(self) -> None:
        self.norms = self.norms or getattr(self.run, "norms", tuple(THREATS))
        self.through = self.through or getattr(self.run, "through", "any")
        usual: Literal["loss", "margin"] = "margin" if self.minimal else "loss"
        self.needs = self.needs or ("decision" if self.knowledge == "decision" else usual)

    @property
    def minimal(self) -> bool:
        return self.kind == "minimum"

    @property
    def serves_all(self) -> bool:
        """Whether it takes every criterion and every model."""
        return self.needs != "classes" and not self.requires

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the function by name, including those that all attacks share."""
        return inspect.signature(self.run).parameters

    @property
    def name(self) -> str:
        return name_of(self.run)

    def takes(self, option: str) -> bool:
        """Return whether the function has an argument of this name."""
        return option in self.parameters


def name_of(run: Any) -> str:
    """Return the name of the function inside, or of its type."""
    while hasattr(run, "func"):  # a partial, or what judges it in a threat
        run = run.func
    return str(getattr(run, "__name__", type(run).__name__))


REGISTRY: dict[str, Attack] = {}  # every attack with a card, by name
ATTACKS: dict[str, Attack] = {}  # of these, the ones that any classifier will do for


def registered(**facts: Any) -> Callable[[F], F]:
    """Register an attack by its name, with its card: a decorator that takes what `Attack` does."""

    def note(run: F) -> F:
        card = Attack(run, **facts, **getattr(run, "tested", {}))
        known = REGISTRY.get(card.name)
        if known is not None and known.run.__module__ != run.__module__:
            raise InputError(f"registered: expected a new name, got another {card.name!r}; rename it")
        REGISTRY[card.name] = card
        if not card.requires:
            ATTACKS[card.name] = card
        return run

    return note


def card_of(what: str, name: Any, known: Mapping[str, Attack]) -> Attack:
    """Return the card of an attack by its name, or as `package.module:function`."""
    if not isinstance(name, str) or ":" not in name or name[0] in ":.":
        return known[check_choice(what, name, known, ", or your own as package.module:function")]
    run = own(what, name)
    held = vars(sys.modules[name.partition(":")[0]]).values()  # a card beside it, or in a dictionary there
    cards = [*REGISTRY.values(), *held, *chain(*(one.values() for one in held if isinstance(one, dict)))]
    return next((card for card in cards if isinstance(card, Attack) and card.run is run), Attack(run))


def tested(**settings: Mapping[str, Any]) -> Callable[[F], F]:
    """Add to the card of an attack how it is tested: its `quick` and `oracle`."""

    def note(run: F) -> F:
        run.tested = settings  # type: ignore[attr-defined]
        return run

    return note
