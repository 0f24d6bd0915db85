"""The page of the command line, from the commands themselves."""

import re
from typing import Any

import typer

from fastadv.cli import app
from fastadv.text import in_markdown


def commands() -> str:
    """Return a section for each command: its help and its options."""
    leaves = _leaves("", typer.main.get_command(app))
    return "\n\n".join(_section(command, f"fastadv {name}") for name, command in leaves)


def _leaves(name: str, command: Any) -> list[tuple[str, Any]]:
    """Return the commands below a group, by their full names."""
    below = getattr(command, "commands", None)
    if below is None:
        return [(name, command)]
    shown = {f"{name} {part}".strip(): leaf for part, leaf in below.items() if not leaf.hidden}
    return [leaf for path, below in shown.items() for leaf in _leaves(path, below)]


def _section(command: Any, name: str) -> str:
    cells = [["option", "default", "what it does"]]
    for option in command.params:
        if not option.opts or option.hidden:
            continue
        flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
        cells.append([flags, _default(option), _plain(option.help or "")])
    text = [f"## {name}", _prose(command.help or "")]
    if command.epilog:
        text.append(f"```sh\n{command.epilog.removeprefix('Example: ').strip()}\n```")
    text.append(in_markdown(cells, names=3))
    return "\n\n".join(text)


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    shown = value is not None and value is not False and value != "" and value != [] and not callable(value)
    return f"`{value}`" if shown else ""


def _prose(help_text: str) -> str:
    """Return the help of a command as Markdown; lines that begin with a flag or are indented stay lines."""
    return "\n\n".join(_plain(part) for part in re.split(r"\n\s*\n|\f|\x08", help_text) if part.strip())


def _plain(text: str) -> str:
    """Return text whose signs Markdown does not take for markup."""
    return re.sub(r"([*_<>\[\]$~])", r"\\\1", re.sub(r"\s+", " ", text).strip())
