"""Options in groups: each is a dataclass, which --help shows as one panel. Every command has `Always`."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, dataclass_transform, get_args

import typer
from typer import rich_utils
from typer.models import OptionInfo, ParameterInfo

from fastadv.cli import _options as o
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._output import write_json
from fastadv.runs.card import telling


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Panel:
    """Options that belong together, declared like those of a command, which takes them as one argument."""

    title = ""

    def __init_subclass__(cls, title: str | None = None) -> None:
        super().__init_subclass__()
        cls.title = title or cls.title
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        return [_parameter(each.name, each.type, each, cls.title) for each in fields(cls)]  # type: ignore[arg-type]


KEYWORD = inspect.Parameter.KEYWORD_ONLY
MOST = 13  # options that --help shows: of a command that has more, what is required and these
COMMON = {
    *("model", "weights", "data", "samples", "attack", "norm", "radius", "out", "report", "run_dir", "json"),
    *("fail_under", "recipe", "epochs", "learning_rate", "augment", "shard_size", "sigma", "draws", "sound"),
    *("help", "help_all"),
}
METAVARS = {bool: "", int: "N", float: "NUMBER", str: "NAME", list[str]: "NAME", Path: "FILE"}
rich_utils.RANGE_STRING = ""  # behind N in the help: no bounds such as 9223372036854775807


def _parameter(name: str, kind: Any, default: Any, title: str = "") -> inspect.Parameter:
    """Return what a field or an argument declares, as an option in the panel of that title."""
    declared = [*default.metadata.values()] if isinstance(default, Field) else []
    if not declared:
        kind, *declared = get_args(kind)
    (shown,) = (copy(each) for each in declared if isinstance(each, ParameterInfo))
    shown.rich_help_panel = title or None
    if isinstance(shown, OptionInfo) and shown.metavar is None:
        kinds = get_args(kind) or (kind,)
        shown.metavar = next((text for each, text in METAVARS.items() if each in kinds), None)
    if isinstance(default, Field):
        default = inspect.Parameter.empty if default.default is MISSING else default.default
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, shown])


@dataclass
class Debug:
    on: bool = False


def _turn_on(context: typer.Context, given: bool) -> None:
    debug = context.find_object(Debug)
    if given and debug is not None:
        debug.on = True
        logging.getLogger().setLevel(logging.INFO)


def _show_help(context: typer.Context, asked: typer.CallbackParam, given: bool) -> None:
    if not given:
        return
    options: list[Any] = context.command.params
    many = len(options) > MOST + len(fields(Always))
    for each in options:
        few = many and asked.name == "help" and not (each.required or each.name in COMMON)
        each.hidden = few or not each.help or (each.name == "help_all" and not many)
    print(context.get_help())
    raise typer.Exit


class Always(Panel):
    """The options of every command, which do their work when they are read."""

    debug: bool = o.option(
        False, "Show the traceback of an error, and what the library logs.", "--debug",
        callback=_turn_on, is_eager=True,
    )  # fmt: skip
    help: bool = o.option(False, "Show this and exit.", "--help", "-h", callback=_show_help, is_eager=True)
    help_all: bool = o.option(False, "Show every option.", "--help-all", callback=_show_help, is_eager=True)


def with_panels(command: Callable[..., Any]) -> Callable[..., None]:
    """Spread out the panels of `command`, and `Always`, and give it --json where it yields a document."""
    if inspect.isgeneratorfunction(inspect.unwrap(command)):
        command = _with_json(command)
    taken = inspect.signature(command).parameters.values()
    panels = {one.name: one.annotation for one in taken if _is_panel(one.annotation)}
    own = [_parameter(one.name, one.annotation, one.default) for one in taken if one.name not in panels]
    parameters = own + [each for panel in (*panels.values(), Always) for each in panel.parameters()]

    @wraps(command)
    def called(**options: Any) -> None:
        try:
            with o.usage():
                seed = options.get("seed", "none")
                made = {
                    name: panel(**{each.name: options.pop(each.name) for each in fields(panel)})
                    for name, panel in panels.items()
                }
                with telling(seed=seed):
                    command(**{one.name: options[one.name] for one in own}, **made)
        except KeyboardInterrupt:  # of which Typer would make an exit code without a word
            raise Interrupted from None

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _with_json(command: Callable[..., Iterator[Any]]) -> Callable[..., None]:
    """Give the option --json to a command that yields its JSON document, and then prints for people."""

    @wraps(command)
    def either(*, json: bool, **options: Any) -> None:
        with closing(command(**options)) as steps:  # type: ignore[type-var]
            for document in steps:
                if json:
                    write_json(document)
                    return

    taken = inspect.signature(command)
    asked = inspect.Parameter("json", KEYWORD, default=False, annotation=o.Json)
    parameters = [one.replace(kind=KEYWORD) for one in taken.parameters.values()]
    either.__signature__ = taken.replace(parameters=[*parameters, asked])  # type: ignore[attr-defined]
    return either


def add(app: typer.Typer, command: Callable[..., Any], example: str) -> None:
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs)  # the terminal's width breaks lines
    app.command(help=text, epilog=f"Example: {example}", add_help_option=False)(with_panels(command))


def group(help: str, **more: Any) -> typer.Typer:
    made = typer.Typer(help=help, no_args_is_help=True, **more)
    made.callback(add_help_option=False)(with_panels(lambda: None))
    return made


def _is_panel(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Panel)
