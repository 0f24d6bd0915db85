"""A threat that grows over the first epochs."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from fastadv._checks import check_count, check_share
from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes import OwnStep, Recipe

Trained = TypeVar("Trained", bound=Recipe | OwnStep)


@dataclass(frozen=True)
class Ramp:
    """A radius that grows by the same amount after each epoch, up to the recipe's.

    From random weights, training at a large radius may stay at chance; from those of a smaller one it learns.
    A step size in the recipe keeps its ratio to radius / steps; radii of L0 are rounded up.

    Args:
        epochs: a number of epochs, or, below 1, a share of all.
        radius: of the first epoch, as a share of the recipe's; None is 1 / (epochs + 1).
        steps: of the attack in the first epoch, rising to the recipe's; None always takes the recipe's.
    """

    epochs: float
    radius: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.epochs, float) and self.epochs < 1:
            check_share("ramp", self.epochs)
        else:
            check_count("ramp", self.epochs, 1)
        if self.radius is not None:
            check_share("ramp.radius", self.radius, one=True)
        if self.steps is not None:
            check_count("ramp.steps", self.steps, 1)


def ramped(ramp: Ramp, recipe: Trained, epochs: int) -> list[Trained]:
    """Return the recipe of each epoch of the ramp; InputError where it cannot grow so."""
    count = round(ramp.epochs * epochs) if isinstance(ramp.epochs, float) else ramp.epochs
    if not 1 <= count < epochs:
        raise InputError(f"ramp: expected from 1 epoch to fewer than all {epochs}, got {count}")
    first = 1 / (count + 1) if ramp.radius is None else ramp.radius
    shares = [first + (1 - first) * k / count for k in range(count)]
    return [_part(recipe, share, ramp.steps, k / count) for k, share in enumerate(shares)]


def _part(recipe: Any, share: float, first: int | None, progress: float) -> Any:
    """Scale the recipe to this share of its radius. progress: how far the steps have risen from `first`."""
    fields = {field.name for field in dataclasses.fields(recipe)} if dataclasses.is_dataclass(recipe) else {}
    if "recipe" in fields:  # around another one
        return dataclasses.replace(recipe, recipe=_part(recipe.recipe, share, first, progress))
    threat = getattr(recipe, "threat", None) if "threat" in fields else None
    if not isinstance(threat, Threat) or not threat.finite:
        raise InputError(
            f"ramp: expected a recipe that is a dataclass with a threat of finite radius, got {recipe!r}; "
            "leave out ramp"
        )
    radius = float(threat.radius) * share
    changed: dict[str, Any] = {
        # a hair less, so that rounding alone adds no coordinate
        "threat": threat.with_radius(math.ceil(radius * (1 - 1e-9)) if threat.least_step else radius)
    }
    slower = share
    if first is not None:
        if "steps" not in fields or first > recipe.steps:
            most = f"at most {recipe.steps}" if "steps" in fields else "a recipe that takes several steps"
            raise InputError(f"ramp.steps: expected {most}, got {first}; leave it out")
        changed["steps"] = round(first + (recipe.steps - first) * progress)
        slower = share * recipe.steps / changed["steps"]
    if getattr(recipe, "step_size", None) is not None:
        changed["step_size"] = max(recipe.step_size * slower, threat.least_step)
    return dataclasses.replace(recipe, **changed)
