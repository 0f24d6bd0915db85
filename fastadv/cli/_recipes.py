"""From text such as `trades:beta=3` to a recipe."""

import inspect

from fastadv.cli import _options as o
from fastadv.cli._options import make_threat, usage
from fastadv.cli._shared import Budget
from fastadv.cli._values import nameable, parse_arguments
from fastadv.train import AWP, OwnStep, Recipe, RubbishTraining, WeightDecayL1
from fastadv.train.recipes import RECIPES

# what the command line sets where the recipe leaves it open
DEFAULTS = {"steps": 7, "replays": 4}
HELP = f"{', '.join(RECIPES)}; or with arguments, trades:beta=3 or fast:method=n-fgsm."


class RecipeOptions(Budget, title="Recipe"):
    """What the command line says beside the recipe's name; None where it says nothing."""

    recipe: str = o.option("standard", HELP)
    steps: int | None = o.count(None, f"Steps of the recipe; {DEFAULTS['steps']} by default.")
    awp: float | None = o.number(None, "Perturb the weights, too, by this share: 0.005.")
    l1: float | None = o.number(None, "L1 weight decay on the first layer.")
    rubbish: float | None = o.number(
        None, "Also deny noise, with this weight beside the loss of the recipe: 1."
    )


def parse_recipe(text: str, options: RecipeOptions) -> Recipe | OwnStep:
    """Parse the recipe that `text` names: NAME or NAME:key=value,key=value.

    The keys are its arguments. Raises typer.BadParameter for text that cannot be understood, and for an
    option without effect.
    """
    name, _, tail = text.partition(":")
    if name not in RECIPES:
        o.refuse(f"no recipe {name!r}; there are {', '.join(RECIPES)}.")
    kind = RECIPES[name]
    takes = inspect.signature(kind).parameters
    keys = {key: parameter for key, parameter in takes.items() if nameable(parameter)}
    arguments = parse_arguments(f"recipe {text!r}", name, tail, keys)
    for key in ("steps", "step_size"):
        if (value := getattr(options, key)) is not None:
            if key not in keys or key in arguments:
                flag = f"--{key.replace('_', '-')}"
                o.refuse(f"{flag} has no effect on the recipe {text}; leave it out.")
            arguments[key] = value
    open_ = {key: value for key, value in DEFAULTS.items() if key in keys}
    if "threat" in takes:
        if options.radius is None:
            o.refuse(f"the recipe {name} needs --radius.")
        arguments["threat"] = make_threat(options.norm or "linf", options.radius)
    elif options.norm is not None and options.radius is None:
        o.refuse("--norm has no effect without --radius; leave it out, or give both.")
    with usage():
        recipe: Recipe | OwnStep = kind(**open_ | arguments)
        if options.rubbish is not None:
            loss = getattr(recipe, "loss", "ce")  # the answer to noise is of the kind that the recipe wants
            recipe = RubbishTraining(recipe, options.rubbish, "bce" if loss == "bce" else "ce")  # type: ignore[arg-type]
        if options.l1 is not None:
            recipe = WeightDecayL1(options.l1, recipe)  # type: ignore[arg-type]  # what owns its step is refused
        if options.awp is not None:
            recipe = AWP(recipe, options.awp)  # type: ignore[arg-type]
    return recipe
