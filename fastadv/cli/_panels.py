"""Options in groups: each is a dataclass, which --help shows as one panel. Every command has --debug."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields
from functools import wraps
from typing import Annotated, Any, dataclass_transform, get_args

import typer
from typer.models import ParameterInfo

from fastadv.cli import _options as o
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._output import write_json
from fastadv.runs.card import telling


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Panel:
    """Options that belong together: a command takes them as one argument.

    A field is declared as an argument of a command is (see `_options.option`). A subclass may change or add
    some.
    """

    title = ""

    def __init_subclass__(cls, title: str | None = None) -> None:
        super().__init_subclass__()
        cls.title = title or cls.title
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        return [
            inspect.Parameter(
                each.name, KEYWORD, default=_default(each), annotation=_in_panel(cls.title, each)
            )
            for each in fields(cls)  # type: ignore[arg-type]  # every subclass is a dataclass
        ]


KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _in_panel(title: str, field: Field[Any]) -> Any:
    """Return the annotation of a field, with its option in the panel of that title."""
    kind, *declared = [field.type, *field.metadata.values()] if field.metadata else get_args(field.type)
    (shown,) = (copy(each) for each in declared if isinstance(each, ParameterInfo))
    shown.rich_help_panel = title or None
    return Annotated[kind, shown]


@dataclass
class Debug:
    on: bool = False


def _turn_on(context: typer.Context, given: bool) -> None:
    debug = context.find_object(Debug)
    if given and debug is not None:
        debug.on = True
        logging.getLogger().setLevel(logging.INFO)


class Debugging(Panel):
    """The option --debug, which does its work when it is read."""

    debug: bool = o.option(
        False, "Show the traceback of an error, and what the library logs.", "--debug",
        callback=_turn_on, is_eager=True,
    )  # fmt: skip


def with_panels(command: Callable[..., Any]) -> Callable[..., None]:
    """Spread out the panels of `command`, and give it --debug, and --json where it yields a document.

    The options of a panel take the place of the argument that is one.
    """
    if inspect.isgeneratorfunction(inspect.unwrap(command)):
        command = _with_json(command)
    taken = inspect.signature(command).parameters.values()
    panels = {one.name: one.annotation for one in taken if _is_panel(one.annotation)}
    own = [_own(one) for one in taken if one.name not in panels]
    spread = [each for panel in (*panels.values(), Debugging) for each in panel.parameters()]

    @wraps(command)
    def called(*, debug: bool, **options: Any) -> None:
        try:
            with o.usage():
                seed = options.get("seed", "none")
                made = {
                    name: panel(**{each.name: options.pop(each.name) for each in fields(panel)})
                    for name, panel in panels.items()
                }
                with telling(seed=seed):
                    command(**options, **made)
        except KeyboardInterrupt:  # of which Typer would make an exit code without a word
            raise Interrupted from None

    parameters = own + spread
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
    """Add a command to `app`, with an example below its help."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    text = "\n\n".join(" ".join(part.split()) for part in paragraphs)  # the terminal's width breaks lines
    app.command(help=text, epilog=f"Example: {example}")(with_panels(command))


def _own(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an argument of a command that is an option by itself."""
    if isinstance(parameter.default, Field):
        field = parameter.default
        field.type = parameter.annotation
        parameter = parameter.replace(default=_default(field), annotation=_in_panel("", field))
    return parameter.replace(kind=KEYWORD)


def _is_panel(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Panel)
