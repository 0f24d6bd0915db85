"""Options from signatures: an option is text for an argument, its help that argument's line under `Args`."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer import rich_utils
from typer.models import ParameterInfo

from fastadv.arguments import parse_number, parse_numbers
from fastadv.card import telling
from fastadv.cli import _options as o
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._output import write_json

FLAGS = {
    **{name: (f"--{name}", f"-{name[0]}") for name in ("model", "option", "weights", "data", "attack")},
    "samples": ("--samples", "-n"),
}
# The option for an argument that takes one of these types, the first that it takes
TYPES: dict[Any, Any] = {
    bool: typer.Option(metavar=""),
    int: typer.Option(metavar="N", min=1),
    float: o.text(parse_number, "NUMBER"),
    Sequence[float]: o.text(parse_numbers, "NUMBERS"),
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
        parameters, lines = inspect.signature(self.function).parameters, argument_lines(self.function)
        options = []
        for name in self.arguments:
            kind = self.types.get(name, parameters[name].annotation)
            default = self.defaults.get(name, parameters[name].default)
            options.append(_option(name, kind, default, lines.get(name, ""), panel))
        return options

    def bind(self, options: Mapping[str, Any]) -> Any:
        """Return an object of the class, or the function with these arguments bound to it."""
        call = partial(self.function, **{name: options[name] for name in self.arguments})
        return call() if is_dataclass(self.function) else call


def _option(
    name: str, annotation: Any, default: Any, text: str = "", panel: str | None = None
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
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown]
    )


def _front(annotation: Any) -> Front | None:
    notes = (Front(annotation),) if is_dataclass(annotation) else get_args(annotation)  # type: ignore[arg-type]
    return next((note for note in notes if isinstance(note, Front)), None)


Debug = Annotated[bool, "Show the traceback of an error, and what the library logs."]
JSON = Annotated[bool, "Print one JSON document and nothing else."]


def add(app: typer.Typer, command: Callable[..., Iterator[Any]], example: str) -> None:
    """Add a command: its docstring is its help; it yields the document of --json, then prints for people."""
    parameters = inspect.signature(command).parameters
    fronts = {
        name: front for name in parameters if (front := _front(parameters[name].annotation)) is not None
    }
    alone = Front(command, " ".join(name for name in parameters if name not in fronts))

    def called(*, json: bool, debug: bool, **options: Any) -> None:
        try:
            with o.usage(), telling(seed=options.get("seed", "none")):
                groups = {name: front.bind(options) for name, front in fronts.items()}
                with closing(alone.bind(options)(**groups)) as documents:
                    for document in documents:
                        if json:
                            write_json(document)
                            return
        except KeyboardInterrupt as stop:  # of which Typer would make an exit code without a word
            raise Interrupted(stop) from None

    options = [*alone.options(None), _option("json", JSON, False), _option("debug", Debug, False)]
    options += [option for name, front in fronts.items() for option in front.options(name.capitalize())]
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in options}
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs)
    app.command(command.__name__, help=text, epilog=f"Example: {example}")(called)
