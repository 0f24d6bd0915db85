"""--debug: an option of every command, and of `fastadv` itself."""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from fastadv.cli._interrupt import Interrupted
from fastadv.cli._panels import with_panels


@dataclass
class Debug:
    """Whether errors come with their traceback."""

    on: bool = False


def _turn_on(context: typer.Context, given: bool) -> None:
    debug = context.find_object(Debug)
    if given and debug is not None:
        debug.on = True
        logging.getLogger().setLevel(logging.INFO)


OPTION = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_turn_on,
        is_eager=True,
        help="Show the traceback of an error, and what the library logs.",
    ),
]


def with_debug(command: Callable[..., None]) -> Callable[..., None]:
    """Spread out the panels of `command`, and give it the option --debug."""
    command = with_panels(command)

    @wraps(command)
    def called(*, debug: bool, **arguments: Any) -> None:
        # --debug has done its work when it was read
        try:
            command(**arguments)
        except KeyboardInterrupt:  # of which Typer would make an exit code without a word
            raise Interrupted from None

    signature = inspect.signature(command)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=OPTION)
    called.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    called.__annotations__ = {**command.__annotations__, "debug": OPTION}
    return called


def add(app: typer.Typer, command: Callable[..., None], example: str) -> None:
    """Add a command to `app`, with --debug, and with an example below its help."""
    app.command(epilog=f"Example: {example}")(with_debug(command))
