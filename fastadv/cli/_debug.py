"""--debug: an option of every command, and of `fastadv` itself."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._panels import Panel, with_panels


@dataclass
class Debug:
    """Whether errors come with their traceback."""

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


def with_debug(command: Callable[..., None]) -> Callable[..., None]:
    """Spread out the panels of `command`, and give it the option --debug."""
    spread = with_panels(command, Debugging)

    @wraps(spread)
    def called(**arguments: Any) -> None:
        try:
            spread(**arguments)
        except KeyboardInterrupt:  # of which Typer would make an exit code without a word
            raise Interrupted from None

    return called


def add(app: typer.Typer, command: Callable[..., None], example: str) -> None:
    """Add a command to `app`, with --debug, and with an example below its help."""
    app.command(epilog=f"Example: {example}")(with_debug(command))
