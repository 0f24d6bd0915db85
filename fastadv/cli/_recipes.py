"""From text such as `trades:beta=3` to a recipe, augmentations, a schedule and a ramp."""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.threat import THREATS
from fastadv.train import AWP, OwnStep, Recipe
from fastadv.train.augment import AUGMENTS, Augment
from fastadv.train.recipes import RECIPES
from fastadv.train.schedules import SCHEDULES, Schedule

AUGMENT = "{augments}; several with +, arguments with a colon: crop+flip+cutout:size=8."


def parse_augment(text: str) -> list[Augment] | None:
    """Parse augmentations, each NAME or NAME:key=value,key=value and joined by +; None for "none"."""
    return None if text == "none" else [part for name in text.split("+") for part in _augmentations(name)]


def _augmentations(text: str) -> tuple[Augment, ...]:
    name, colon, tail = text.partition(":")
    o.look_up("augmentation", name, ["none", *AUGMENTS])
    if not colon:
        return AUGMENTS[name]
    if len(AUGMENTS[name]) > 1:
        o.refuse(f"{name} takes no arguments: name its parts, with + between them.")
    (function,) = AUGMENTS[name]
    takes = {key: one for key, one in _nameable(function).items() if not o.required(one)}
    return (partial(function, **o.parse_arguments(f"augmentation {text!r}", name, tail, takes)),)


def parse_schedule(text: str) -> str | Schedule:
    """Parse NAME or NAME:key=value,key=value; a name alone stays one."""
    name, colon, tail = text.partition(":")
    o.look_up("schedule", name, SCHEDULES)
    if not colon:
        return name
    kind = type(SCHEDULES[name])
    takes: dict[str, inspect.Parameter] = _nameable(kind) if dataclasses.is_dataclass(kind) else {}
    arguments = o.parse_arguments(f"schedule {text!r}", name, tail, takes)
    return dataclasses.replace(SCHEDULES[name], **arguments)  # type: ignore[type-var]


def parse_ramp(text: str) -> float:
    return int(text) if text.isdigit() else o.parse_number(text)


def _nameable(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {key: one for key, one in inspect.signature(function).parameters.items() if o.nameable(one)}


@dataclass(frozen=True)
class RecipeOptions:
    recipe: Annotated[str, "{recipes}; or with arguments, trades:beta=3 or fast:method=n-fgsm."] = "standard"
    awp: Annotated[float | None, "Strength of adversarial weight perturbation (AWP): 0.005."] = None
    augment: Annotated[Any, o.text(parse_augment, "NAME+NAME"), AUGMENT] = "none"


def parse_recipe(text: str, budget: Budget, awp: float | None = None) -> Recipe | OwnStep:
    """Parse NAME or NAME:key=value,key=value. Wrong usage for what has no sense or no effect."""
    name, _, tail = text.partition(":")
    kind = RECIPES[o.look_up("recipe", name, RECIPES)]
    keys = _nameable(kind)
    arguments = o.parse_arguments(f"recipe {text!r}", name, tail, keys)
    for key in ("steps", "step_size"):
        if key in budget.chosen:
            if key not in keys or key in arguments:
                o.refuse(f"--{key.replace('_', '-')} has no effect on the recipe {text}; leave it out.")
            arguments[key] = budget.chosen[key]
    needed = [key for key, parameter in keys.items() if o.required(parameter)]
    if missing := [key for key in needed if key not in arguments]:
        o.refuse(f"the recipe {name} needs {' and '.join(missing)}: {name}:{missing[0]}=VALUE.")
    if "threat" in inspect.signature(kind).parameters:
        if budget.radius is None:
            o.refuse(f"the recipe {name} needs --radius.")
        arguments["threat"] = THREATS[budget.norm or "linf"](budget.radius)
    elif budget.norm is not None and budget.radius is None:
        o.refuse("--norm has no effect without --radius; leave it out, or give both.")
    recipe: Any = kind(**arguments)
    return recipe if awp is None else AWP(recipe, awp)
