"""Options from signatures: an option is text for an argument, its help that argument's line under `Args`."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, is_dataclass
from functools import partial, wraps
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer import rich_utils
from typer.models import ParameterInfo

from fastadv.cli import _options as o
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._output import write_json
from fastadv.losses import LOSSES
from fastadv.runs.card import telling

KEYWORD = inspect.Parameter.KEYWORD_ONLY
MOST = 13  # options that --help shows: of a command that has more, what is required and these
COMMON = {
    *("model", "weights", "data", "samples", "attack", "norm", "radius", "out", "report", "run_dir", "json"),
    *("fail_under", "recipe", "epochs", "learning_rate", "augment", "help", "help_all"),
}
FLAGS = {
    **{name: (f"--{name}", f"-{name[0]}") for name in ("model", "option", "weights", "data", "attack")},
    "samples": ("--samples", "-n"),
    "verbose": ("--verbose", "-v"),
}
NAMING = f"""An attack is named alone, or with its arguments: pgd:steps=100,norm=l2,radius=0.5.

Attacks that ascend a loss take loss=NAME: {", ".join(LOSSES)}. dlr works with logits of any size,
ce_sharp also with logits that are nearly alike: pgd, bim, mim, fgsm and apgd ascend it; loss=ce is what their
papers ascend."""
# The option for an argument that takes one of these types, the first that it takes
TYPES: dict[Any, Any] = {
    bool: typer.Option(metavar=""),
    int: typer.Option(metavar="N", min=1),
    float: o.text(o.parse_number, "NUMBER"),
    Sequence[float]: o.text(o.parse_numbers, "NUMBERS"),
    PathLike[str]: get_args(o.Folder)[1],
    Path: typer.Option(metavar="FILE"),
    str: typer.Option(metavar="NAME"),
    list[str]: typer.Option(metavar="NAME"),
}
rich_utils.RANGE_STRING = ""  # no bounds such as 9223372036854775807 behind N


def argument_lines(function: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring of a function says of its arguments: a sentence, as the terminal has it."""
    section = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    lines = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: _first_sentence(" ".join(text.split())) for name, text in lines}


def _first_sentence(text: str) -> str:
    sentence = re.split(r"(?<=\.) (?=[A-Z`])", text, maxsplit=1)[0]
    sentence = re.sub(r"None(, the default,)?", "the default", sentence)
    sentence = sentence.replace("`run_dir`", "--run-dir").replace("`", "")
    return sentence[:1].upper() + sentence[1:]


@dataclass(frozen=True)
class Front:
    """Arguments of a function or a class as options: all, or those of `names`."""

    function: Callable[..., Any]
    names: str | None = None
    types: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        return [*inspect.signature(self.function).parameters] if self.names is None else self.names.split()

    def options(self, panel: str | None) -> list[inspect.Parameter]:
        taken, lines = inspect.signature(self.function).parameters, argument_lines(self.function)
        options = []
        for name in self.arguments:
            kind = self.types.get(name, taken[name].annotation)
            default = self.defaults.get(name, taken[name].default)
            options.append(_option(name, kind, default, lines.get(name, ""), panel))
        return options

    def bind(self, options: Mapping[str, Any]) -> Any:
        """Return an object of the class, or the function with these arguments bound to it."""
        call = partial(self.function, **{name: options[name] for name in self.arguments})
        return call() if is_dataclass(self.function) else call


def _option(
    name: str, annotation: Any, default: Any, text: str, panel: str | None = None
) -> inspect.Parameter:
    """Declare an option; the annotation may have its text, and how it is read, as notes."""
    kind, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    text = next((note for note in notes if isinstance(note, str)), text)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    read = [(kind, note) for note in notes if isinstance(note, ParameterInfo)]
    read += [get_args(part)[:2] for part in kinds if get_origin(part) is Annotated]
    read += [(part, TYPES[part]) for part in TYPES if part in kinds]
    kind, shown = read[0] if read else (kind, typer.Option())
    shown = copy(shown)
    shown.help = shown.help or text
    shown.rich_help_panel = panel
    if not shown.param_decls:
        only = kind is bool and default is False  # no flag that turns off what is off
        shown.param_decls = FLAGS.get(name) or ((f"--{name.replace('_', '-')}",) if only else ())
    kind = Any if shown.parser else kind | None if default is None and read else kind
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, shown])


def _front(annotation: Any) -> Front | None:
    notes = (Front(annotation),) if is_dataclass(annotation) else get_args(annotation)  # type: ignore[arg-type]
    return next((note for note in notes if isinstance(note, Front)), None)


def _show_help(context: typer.Context, asked: typer.CallbackParam, on: bool) -> None:
    if not on:
        return
    options: list[Any] = context.command.params
    many = len(options) > MOST + len(ALWAYS)
    for option in options:
        few = many and asked.name == "help" and not (option.required or option.name in COMMON)
        option.hidden = few or not option.help or (option.name == "help_all" and not many)
    print(context.get_help())
    raise typer.Exit


def eager(callback: Callable[..., None] | None, text: str, name: str, *flags: str) -> inspect.Parameter:
    """Declare a flag whose callback does its work as soon as it is read."""
    shown = typer.Option(*flags, help=text, callback=callback, is_eager=True, metavar="")
    return inspect.Parameter(name, KEYWORD, default=False, annotation=Annotated[bool, shown])


ALWAYS = [
    eager(None, "Show the traceback of an error, and what the library logs.", "debug", "--debug"),
    eager(_show_help, "Show this and exit.", "help", "--help", "-h"),
    eager(_show_help, "Show every option.", "help_all", "--help-all"),
]
JSON = eager(None, "Print one JSON document and nothing else.", "json", "--json")


def taking(called: Callable[..., None], *parameters: inspect.Parameter) -> Callable[..., None]:
    """Return the function with the signature of these options, and those that every command has."""
    called.__signature__ = signature = inspect.Signature([*parameters, *ALWAYS])  # type: ignore[attr-defined]
    called.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return called


def add(app: typer.Typer, command: Callable[..., Iterator[Any]], example: str) -> None:
    """Add a command: its docstring is its help; it yields the document of --json, then prints for people."""
    taken = inspect.signature(command).parameters
    fronts = {name: front for name in taken if (front := _front(taken[name].annotation)) is not None}
    alone = Front(command, " ".join(name for name in taken if name not in fronts))

    @wraps(command)
    def called(*, json: bool, **options: Any) -> None:
        try:
            with o.usage(), telling(seed=options.get("seed", "none")):
                groups = {name: front.bind(options) for name, front in fronts.items()}
                with closing(alone.bind(options)(**groups)) as documents:
                    for document in documents:
                        if json:
                            write_json(document)
                            return
        except KeyboardInterrupt:  # of which Typer would make an exit code without a word
            raise Interrupted from None

    panels = [option for name, front in fronts.items() for option in front.options(name.capitalize())]
    prose = (inspect.getdoc(command) or "").replace("{naming}", NAMING)
    text = "\n\n".join(" ".join(part.split()) for part in prose.split("\n\n"))
    declare = app.command(help=text, epilog=f"Example: {example}", add_help_option=False)
    declare(taking(called, *alone.options(None), JSON, *panels))
