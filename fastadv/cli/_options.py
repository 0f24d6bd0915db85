"""The options that commands share, and how their text becomes threats and attacks."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadv.threat import THREATS, Threat

if TYPE_CHECKING:
    from fastadv.attacks import AttackResult


def parse_number(text: str) -> float:
    """A number, also as a fraction: 0.3, 1e-3, 8/255, inf."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"expected a number such as 0.3 or 8/255, got {text!r}.") from error


def parse_numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(parse_number(part) for part in text.split(","))


def parse_norm(text: str) -> str:
    """The name of a norm."""
    if text not in THREATS:
        raise typer.BadParameter(f"expected one of {', '.join(THREATS)}, got {text!r}.")
    return text


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="softmax, logistic, cnn, small_cnn, resnet18, or your own as package.module:function.",
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="An argument of the model: width=16. May be repeated."
    ),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", "-w", help="Weights: a safetensors or a torch file.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, mnist, cifar10, imagefolder, restricted_imagenet, or the folder of a constructed set.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where the data sets lie; else FASTADV_DATA, else the user's cache.")
]
Size = Annotated[int | None, typer.Option(min=1, help="Height and width to bring the images to.")]
Samples = Annotated[
    int | None, typer.Option("--samples", "-n", min=1, help="Use only the first so many samples.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples worked on at once.")]
NormOption = Annotated[
    str, typer.Option(parser=parse_norm, metavar=f"[{'|'.join(THREATS)}]", help="Norm of the budget.")
]
Radius = Annotated[
    float, typer.Option(parser=parse_number, metavar="NUMBER", help="The budget, in input units: 0.3, 8/255.")
]
OptionalRadius = Annotated[
    float | None,
    typer.Option(parser=parse_number, metavar="NUMBER", help="The budget, in input units: 0.3, 8/255."),
]
StepSize = Annotated[
    float | None,
    typer.Option(parser=parse_number, metavar="NUMBER", help="Length of a step, in input units."),
]
Steps = Annotated[int, typer.Option(min=1, help="Steps of iterative attacks.")]
Restarts = Annotated[int, typer.Option(min=1, help="Attempts from different starts; the best counts.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default the GPU where there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def usage() -> Iterator[None]:
    """What is wrong with an argument of the command line: an InputError inside becomes wrong usage, exit code 2."""
    from fastadv.errors import InputError

    try:
        yield
    except InputError as error:
        raise typer.BadParameter(f"{error}.") from error


def make_threat(norm: str, radius: float) -> Threat:
    """The threat of that norm over the box (0, 1)."""
    with usage():
        return THREATS[norm](radius)


@dataclass(frozen=True)
class AttackOptions:
    """The options of the command line that hold for every attack which takes them."""

    norm: str
    radius: float | None
    steps: int
    step_size: float | None
    restarts: int
    seed: int


@dataclass(frozen=True)
class NamedAttack:
    """An attack as `evaluate` wants it: run(model, x, y, ids=ids); at(radius) is the same with another budget."""

    label: str
    norm: str
    at: Callable[[float], "Callable[..., AttackResult]"]
    run: "Callable[..., AttackResult]"
    config: dict[str, Any]


def parse_attack(text: str, options: AttackOptions, **fixed: Any) -> NamedAttack:
    """The attack that `text` names: NAME, or NAME:key=value,key=value with arguments of its function, norm or radius.

    `fixed` arguments are passed to it when it takes them. Raises typer.BadParameter where the text cannot be understood.
    """
    import inspect
    from functools import partial

    from fastadv.attacks import ATTACKS

    name, _, tail = text.partition(":")
    if name not in ATTACKS:
        raise typer.BadParameter(f"no attack {name!r}; there are {', '.join(ATTACKS)}.")
    attack = ATTACKS[name]
    takes = inspect.signature(attack.run).parameters
    own = dict(pair(part, f"attack {text!r}") for part in tail.split(",") if part)
    unknown = [key for key in own if key not in takes and key not in ("norm", "radius")]
    if unknown:
        known = ", ".join(
            [
                "norm",
                "radius",
                *(key for key in takes if key not in ("model", "x", "y", "threat", "ids", "targets")),
            ]
        )
        raise typer.BadParameter(f"{name} takes no {unknown[0]!r}; it takes {known}.")
    norm = str(own.pop("norm", options.norm))
    radius = own.pop("radius", options.radius)
    if radius is None or isinstance(radius, str | bool):
        raise typer.BadParameter(f"attack {text!r} has no radius; give --radius, or {name}:radius=0.3.")
    if norm not in attack.norms:
        raise typer.BadParameter(f"{name} works in {', '.join(attack.norms)}, not in {norm!r}.")
    shared = {
        "steps": options.steps,
        "step_size": options.step_size,
        "restarts": options.restarts,
        "seed": options.seed,
        **fixed,
    }
    arguments = {key: value for key, value in shared.items() if key in takes and value is not None} | own

    def at(budget: float) -> "Callable[..., AttackResult]":
        return partial(attack.run, threat=make_threat(norm, budget), **arguments)

    config = {"attack": name, "norm": norm, "radius": radius, **arguments}
    return NamedAttack(
        text if tail else f"{name} {THREATS[norm].symbol} {radius:g}", norm, at, at(radius), config
    )


def pair(part: str, what: str) -> tuple[str, Any]:
    """KEY=VALUE, the value a number, true, false or text."""
    key, equals, value = part.partition("=")
    if not equals:
        raise typer.BadParameter(f"{what}: expected KEY=VALUE, got {part!r}.")
    if value in ("true", "false"):
        return key, value == "true"
    for convert in (int, parse_number):
        try:
            found: int | float = convert(value)
        except (ValueError, typer.BadParameter):
            continue
        if math.isfinite(found) or convert is parse_number:
            return key, found
    return key, value
