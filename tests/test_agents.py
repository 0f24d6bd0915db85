"""AGENTS.md and llms.txt are true: their commands, paths and names exist."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import fastadv as fa
from tests.cli.test_help import COMMANDS
from tests.test_ci import TARGETS
from tests.test_repository import paths

ROOT = Path(__file__).parent.parent
AGENTS, LLMS = (ROOT / "AGENTS.md").read_text(), (ROOT / "llms.txt").read_text()


def test_commands_for_agents_exist():
    (block,) = re.findall(r"```sh\n(.+?)```", AGENTS, re.DOTALL)
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    for program, command in lines:
        assert command in {"make": TARGETS, "fastadv": COMMANDS}[program]
    assert {"setup", "quick", "test", "lint", "typecheck", "doctor"} <= {command for _, command in lines}
    assert {*re.findall(r"`make (\w+)`", AGENTS)} <= TARGETS


@pytest.mark.parametrize("text", [AGENTS, LLMS], ids=["AGENTS.md", "llms.txt"])
def test_paths_exist(text):
    links = re.findall(r"\]\(([^)]+)\)", text)
    named = [name for name in [*paths(text), *links] if name != ".venv/bin/python"]
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_linked():
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= {
        *re.findall(r"\((docs/\w+\.md)\)", LLMS)
    }


def test_what_llms_says_of_a_call_is_true():
    taken = [*inspect.signature(fa.attacks.pgd).parameters]
    assert taken[:4] == ["model", "x", "y", "threat"]
    assert {"step_size", "steps"} <= {*taken}
    told = {field.name for field in fields(fa.attacks.AttackResult)} | {*dir(fa.attacks.AttackResult)}
    assert {"x_adv", "success", "status", "loss", "distance"} <= told
    for name in re.findall(r"`fa\.(L\w+)\(radius\)`", LLMS):
        assert getattr(fa, name)(1.0).box == (0.0, 1.0)
        assert inspect.signature(getattr(fa, name)).parameters["radius"].default is inspect.Parameter.empty
