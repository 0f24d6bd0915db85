"""A threat that grows over the first epochs."""

import dataclasses
import math
from typing import Any, TypeVar

from fastadv.errors import InputError
from fastadv.threat import Threat
from fastadv.train.recipes import OwnStep, Recipe

Trained = TypeVar("Trained", bound=Recipe | OwnStep)


def ramped(ramp: float, recipe: Trained, epochs: int) -> list[Trained]:
    """Return the recipe of each epoch of the ramp; InputError where it cannot grow so."""
    count = ramp if isinstance(ramp, int) else round(ramp * epochs)
    if not 1 <= count < epochs:
        raise InputError(f"ramp: expected from 1 epoch to fewer than all {epochs}, got {count}")
    first = 1 / (count + 1)
    return [_part(recipe, first + (1 - first) * k / count) for k in range(count)]


def _part(recipe: Any, share: float) -> Any:
    """Scale the recipe to this share of its radius; its step size keeps its ratio to radius / steps."""
    fields = {field.name for field in dataclasses.fields(recipe)} if dataclasses.is_dataclass(recipe) else {}
    if "recipe" in fields:  # around another one
        return dataclasses.replace(recipe, recipe=_part(recipe.recipe, share))
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
    if getattr(recipe, "step_size", None) is not None:
        changed["step_size"] = max(recipe.step_size * share, threat.least_step)
    return dataclasses.replace(recipe, **changed)
