"""From text such as `trades:beta=3` to a recipe, augmentations and a ramp."""

import dataclasses
import inspect
from functools import partial

from fastadv.cli import _options as o
from fastadv.cli._shared import Budget
from fastadv.train import AWP, OwnStep, Recipe
from fastadv.train.augment import AUGMENTS, Augment
from fastadv.train.recipes import RECIPES
from fastadv.train.schedules import SCHEDULES, Schedule

RECIPE_HELP = f"{', '.join(RECIPES)}; or with arguments, trades:beta=3 or fast:method=n-fgsm."
AUGMENT_HELP = f"{', '.join(AUGMENTS)}; several with +, arguments with a colon: crop+flip+cutout:size=8."
RAMP_HELP = "Let the radius grow in this many first epochs, or in a share of all."


class RecipeOptions(Budget, title="Recipe"):
    """What the command line says beside the recipe's name; None where it says nothing."""

    recipe: str = o.option("standard", RECIPE_HELP)
    steps: int | None = o.count(None, "Steps of the recipe; 7 by default.")
    awp: float | None = o.number(None, "Strength of adversarial weight perturbation (AWP): 0.005.")


def parse_recipe(text: str, options: RecipeOptions) -> Recipe | OwnStep:
    """Parse NAME or NAME:key=value,key=value. Wrong usage for what has no sense or no effect."""
    name, _, tail = text.partition(":")
    kind = RECIPES[o.look_up("recipe", name, RECIPES)]
    takes = inspect.signature(kind).parameters
    keys = {key: parameter for key, parameter in takes.items() if o.nameable(parameter)}
    arguments = o.parse_arguments(f"recipe {text!r}", name, tail, keys)
    for key in ("steps", "step_size"):
        if (value := getattr(options, key)) is not None:
            if key not in keys or key in arguments:
                flag = f"--{key.replace('_', '-')}"
                o.refuse(f"{flag} has no effect on the recipe {text}; leave it out.")
            arguments[key] = value
    needed = [key for key, parameter in keys.items() if parameter.default is parameter.empty]
    if missing := [key for key in needed if key not in arguments]:
        o.refuse(f"the recipe {name} needs {' and '.join(missing)}: {name}:{missing[0]}=VALUE.")
    if "threat" in takes:
        if options.radius is None:
            o.refuse(f"the recipe {name} needs --radius.")
        arguments["threat"] = o.make_threat(options.norm or "linf", options.radius)
    elif options.norm is not None and options.radius is None:
        o.refuse("--norm has no effect without --radius; leave it out, or give both.")
    recipe: Recipe | OwnStep = kind(**arguments)
    if options.awp is not None:
        recipe = AWP(recipe, options.awp)  # type: ignore[arg-type]
    return recipe


def parse_augment(text: str) -> list[Augment] | None:
    """Parse augmentations, each NAME or NAME:key=value,key=value and joined by +; None for "none"."""
    return None if text == "none" else [part for each in text.split("+") for part in _parts(each)]


def _parts(text: str) -> tuple[Augment, ...]:
    name, colon, tail = text.partition(":")
    o.look_up("augmentation", name, ["none", *AUGMENTS])
    if not colon:
        return AUGMENTS[name]
    if len(AUGMENTS[name]) > 1:
        o.refuse(f"{name} takes no arguments: name its parts, with + between them.")
    (function,) = AUGMENTS[name]
    takes = inspect.signature(function).parameters.items()
    open_ = {key: one for key, one in takes if o.nameable(one) and one.default is not inspect.Parameter.empty}
    arguments = o.parse_arguments(f"augmentation {text!r}", name, tail, open_)
    return (partial(function, **arguments),)


def parse_schedule(text: str) -> str | Schedule:
    """Parse NAME or NAME:key=value,key=value; a name alone stays one."""
    name, colon, tail = text.partition(":")
    o.look_up("schedule", name, SCHEDULES)
    if not colon:
        return name
    kind = type(SCHEDULES[name])
    keys: dict[str, inspect.Parameter] = {}
    if dataclasses.is_dataclass(kind):
        keys = {key: one for key, one in inspect.signature(kind).parameters.items() if o.nameable(one)}
    arguments = o.parse_arguments(f"schedule {text!r}", name, tail, keys)
    return dataclasses.replace(SCHEDULES[name], **arguments)  # type: ignore[type-var]


def parse_ramp(text: str) -> float:
    return int(text) if text.isdigit() else o.parse_number(text)
