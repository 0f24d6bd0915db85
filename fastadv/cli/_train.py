"""`fastadv train`: train a model, standard or adversarially, with checkpoints that resume."""

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from typing import Annotated, Any

from torch import nn

from fastadv.arguments import nameable, needed, parse_call, parse_value
from fastadv.card import card
from fastadv.cli import _options as o
from fastadv.cli._attack import parse_attack
from fastadv.cli._interrupt import interruptible, together
from fastadv.cli._output import kept_in, note, print_table, progress, say
from fastadv.cli._shared import Budget, Images, Machine, Network, load_data
from fastadv.cli._signature import Front
from fastadv.data import hold_out
from fastadv.data._load import has_test
from fastadv.runs import processes
from fastadv.threat import THREATS
from fastadv.train import (
    AWP,
    Ending,
    Execution,
    Measuring,
    Optimization,
    OwnStep,
    Recipe,
    fit,
    reports,
)
from fastadv.train import epochs as each_epoch
from fastadv.train.augment import AUGMENTS
from fastadv.train.recipes import RECIPES
from fastadv.train.report import Reports, best
from fastadv.train.schedules import SCHEDULES, Schedule

# The functions that take the arguments of an augmentation and a schedule: those of several parts take none
ALONE = {name: parts[0] if len(parts) == 1 else lambda: None for name, parts in AUGMENTS.items()}
KINDS = {name: type(one) if is_dataclass(one) else lambda: None for name, one in SCHEDULES.items()}
AUGMENT = f"{', '.join(AUGMENTS)}; several with +, arguments with a colon: crop+flip+cutout:size=8."


def parse_augment(text: str) -> list[Any] | None:
    """Parse augmentations, each NAME or NAME:key=value,key=value and joined by +; None for "none"."""
    if text == "none":
        return None
    calls = [parse_call("augmentation", part, ALONE, optional=True) for part in text.split("+")]
    return [partial(ALONE[name], **arguments) if arguments else name for name, arguments in calls]


def parse_schedule(text: str) -> str | Schedule:
    """Parse NAME or NAME:key=value,key=value; a name alone stays one."""
    name, arguments = parse_call("schedule", text, KINDS)
    return replace(SCHEDULES[name], **arguments) if arguments else name  # type: ignore[type-var]


RECIPE = f"{', '.join(RECIPES)}; or with arguments, trades:beta=3 or fast:method=n-fgsm."


@dataclass(frozen=True)
class RecipeOptions:
    recipe: Annotated[str, RECIPE] = "standard"
    awp: Annotated[float | None, "Strength of adversarial weight perturbation (AWP): 0.005."] = None
    augment: Annotated[Any, o.text(parse_augment, "NAME+NAME"), AUGMENT] = "none"


def parse_recipe(text: str, budget: Budget, awp: float | None = None) -> Recipe | OwnStep:
    """Parse NAME or NAME:key=value,key=value. Wrong usage for what has no sense or no effect."""
    name, arguments = parse_call("recipe", text, RECIPES)
    parameters = inspect.signature(RECIPES[name]).parameters
    keys = nameable(parameters)
    for key in ("steps", "step_size"):
        if key in budget.chosen:
            if key not in keys or key in arguments:
                o.refuse(f"--{key.replace('_', '-')} has no effect on the recipe {text}; leave it out.")
            arguments[key] = budget.chosen[key]
    if missing := [key for key in keys if key in needed(parameters) and key not in arguments]:
        o.refuse(f"the recipe {name} needs {' and '.join(missing)}: {name}:{missing[0]}=VALUE.")
    if "threat" in parameters:
        if budget.radius is None:
            o.refuse(f"the recipe {name} needs --radius.")
        arguments["threat"] = THREATS[budget.norm or "linf"](budget.radius)
    elif budget.norm is not None and budget.radius is None:
        o.refuse("--norm has no effect without --radius; leave it out, or give both.")
    recipe: Any = RECIPES[name](**arguments)
    return recipe if awp is None else AWP(recipe, awp)


TEST_STEPS = 10
TRAINING = Front(
    fit,
    "epochs batch_size optimizer learning_rate run_dir resume",
    defaults={"epochs": 10, "batch_size": 128},
)
SCHEDULE = f"How the learning rate changes: {', '.join(SCHEDULES)}; or cyclic:peak=0.3."
OPTIMIZATION = Front(
    Optimization,
    "weight_decay schedule max_norm ramp ema",
    types={
        "schedule": Annotated[Any, o.text(parse_schedule, "NAME:KEY=VALUE", SCHEDULE)],
        "ramp": Annotated[float, o.text(parse_value, "EPOCHS")] | None,
    },
)
EXECUTION = Front(Execution, "precision workers checkpoint_every", types={"workers": o.FromZero | None})


@dataclass(frozen=True)
class Tests:
    test_data: Annotated[str | None, "Data set to test on; by default the test split of --data."] = None
    test_samples: Annotated[int | None, "Test on N samples, chosen as by --samples; 1000 by default."] = None
    validation: Annotated[int | None, "Hold out N images, by which the best epoch is chosen."] = None

    def load(self, data: str, **options: Any) -> Any:
        """Load what is tested on beside the training images `data`; options are those of `load_data`."""
        if self.test_data is None and not has_test(data):
            note(f"{data} has no test split: name one with --test-data to see accuracies")
            return None
        options |= {"samples": self.test_samples or 1000}
        return load_data(self.test_data or data, **options)


@together
def train(
    model: Network,
    images: Images,
    recipe: RecipeOptions,
    budget: Budget,
    training: Annotated[partial[Any], TRAINING],
    optimization: Annotated[Optimization, OPTIMIZATION],
    tests: Tests,
    ending: Ending,
    execution: Annotated[Execution, EXECUTION],
    machine: Machine,
) -> Iterator[Any]:
    """Train a model, standard or adversarially.

    With --run-dir, the same command and --resume continues bit for bit after any stop.

    Several processes train together: torchrun --nproc-per-node 4 -m fastadv train ...
    """
    trained = parse_recipe(recipe.recipe, budget, recipe.awp)
    if budget.radius is None and (tests.validation is not None or ending != Ending()):
        o.refuse("--validation, --patience and --on-alarm need the --radius of the attack that decides.")
    run_dir, seed = training.keywords["run_dir"], machine.seed
    with interruptible(partial(kept_in, run_dir)), progress("training") as bar:
        dataset = images(part="train")
        drawn = hold_out(dataset, tests.validation, seed) if tests.validation else None
        dataset, held_out = (drawn.rest, drawn.held_out) if drawn else (dataset, None)
        test_set = tests.load(**images.keywords)
        net = model.load(dataset, machine, fresh=True)
        if processes.world() > 1 and machine.place().type == "cuda":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        attack = None
        if budget.radius is not None and (test_set is not None or held_out is not None):
            attack = parse_attack("pgd", replace(budget, step_size=None, steps=TEST_STEPS), seed)
        run = each_epoch(
            net, dataset, trained, **training.keywords, augment=recipe.augment, test_set=test_set,
            test_attacks=attack and {attack.title: attack.run}, seed=seed, device=machine.place(),
            progress=bar, optimization=optimization,
            measuring=Measuring(validation_set=held_out), ending=ending, execution=execution,
        )  # fmt: skip
        done = list(run)
    if processes.rank():
        return  # the first process tells, and its folder may lie on another machine
    past = reports(run_dir) if run_dir is not None else Reports(done)
    config = {
        "model": model.model,
        "options": model.option,
        "recipe": repr(trained),
        "data": dataset.describe(),
        "validation": drawn and drawn.about,
        "chosen_on": None if best(past) is None else "test_set" if held_out is None else "validation_set",
        "epochs": training.keywords["epochs"],
        "seed": seed,
        "run_dir": run_dir and str(run_dir),
    }
    yield card("training", config, epochs=[asdict(report) for report in past])
    print_table(f"{model.model} on {dataset.name}", past.cells(), [dataset.note, *past.alarms])
    if run_dir is not None:
        say(f"weights in {run_dir / 'model.safetensors'}")
        # A file may also lie there from another run in this folder
        if optimization.ema is not None:
            say(f"their moving average in {run_dir / 'ema.safetensors'}")
        if best(past) is not None:
            on = "test" if held_out is None else "validation"
            say(f"the best under attack, on the {on} images, in {run_dir / 'best.safetensors'}")
    else:
        note("the weights were not kept: give --run-dir")
