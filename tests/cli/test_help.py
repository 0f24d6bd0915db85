"""Every command explains itself, with an example that parses."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fastadv.cli import app

COMMANDS = get_command(app).commands
LINES = (Path(__file__).parent / "options.txt").read_text().splitlines()
OPTIONS = {command: options.split() for command, _, options in (line.partition(": ") for line in LINES)}


def spelled(option):
    """An option as the file has it: its flags, then * if it is required, or its default."""
    shown = "" if option.default in (None, False) else f"={option.default}"
    return "/".join([*option.opts, *option.secondary_opts]) + ("*" if option.required else shown)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_have_their_names_defaults_and_a_line_of_help(command):
    shown = [option for option in COMMANDS[command].params if option.help]
    assert sorted(map(spelled, shown)) == sorted(OPTIONS[command])
    assert all("\n" not in option.help and option.help[-1] in ".)" for option in shown)


def test_options_stand_in_groups(fastadv):
    lines = fastadv("evaluate --help").out.splitlines()
    titles = [line.split()[1] for line in lines if line.startswith("╭")]
    assert (
        " ".join(titles) == "Options Model Images Budget Evaluation Auditing Results Benchmark Search Machine"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_and_an_example_that_parses(fastadv, command):
    done, declared = fastadv(f"{command} {'-h' if command == 'train' else '--help'}"), COMMANDS[command]
    assert done.err == ""
    shown = [option for option in declared.params if option.help]
    every = {name for option in shown for name in option.opts if name.startswith("--")}
    assert set(re.findall(r"^│[ *]+(--[a-z-]+)", done.out, re.MULTILINE)) - {"--help"} == every
    of_ours = "\n".join(line for line in done.out.splitlines() if " --help " not in line)
    for noise in ("<bool>", "<int", "<str>", "<path>", "9223372036854775807"):
        assert noise not in of_ours
    assert f"Example: fastadv {command}" in done.out
    example = declared.epilog.removeprefix(f"Example: fastadv {command}")
    declared.make_context(command, shlex.split(example))
