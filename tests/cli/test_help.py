"""Every command explains itself, with an example that parses."""

import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.main import get_command

from fastadv import __version__
from fastadv.cli import app

COMMANDS = ("demo", "attack", "train", "construct", "verify", "export", "evaluate", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(fastadv: Callable, command: str) -> None:
    done = fastadv(f"{command} --help")
    assert done.code == 0
    assert done.err == ""
    assert f"Example: fastadv {command}" in done.out
    assert "--json" in done.out


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("attack", "Model Images Attack Computation"),
        ("train", "Model Images Recipe Optimization Ending Results Computation"),
        ("construct", "Model Images Construction Computation"),
        ("evaluate", "Model Images Attack Results Computation"),
    ],
)
def test_options_stand_in_groups(fastadv: Callable, command: str, groups: str) -> None:
    told = fastadv(f"{command} --help").out
    titles = [line.split()[1] for line in told.splitlines() if line.startswith("╭")]
    assert [title for title in titles if title != "Arguments"] == ["Options", *groups.split()]


@pytest.mark.parametrize("command", COMMANDS)
def test_example_parses(command: str) -> None:
    found = get_command(app).commands[command]
    example = shlex.split(found.epilog.removeprefix("Example: "))
    assert example[:2] == ["fastadv", command]
    found.make_context(command, example[2:])


def test_help_lists_every_command(fastadv: Callable) -> None:
    done = fastadv("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out


@pytest.mark.slow
def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastadv", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{__version__}\n"


def test_version(fastadv: Callable) -> None:
    assert fastadv("--version") == (0, f"{__version__}\n", "")
