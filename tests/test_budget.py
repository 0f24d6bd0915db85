"""How many lines each room may have. What comes in is paid for by what goes out.

The whole may have 50,848 lines, the docs 45,000 words; the rooms that every call runs through have few
decisions in 100 lines of code (`tools/decisions.py`).
"""

from pathlib import Path

import pytest

from tools.decisions import per_hundred

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 50_848,
    "fastadv/adapters": 580,
    "fastadv/attacks": 11_000,
    "fastadv/certify": 1_075,
    "fastadv/cli": 3_215,
    "fastadv/data": 3_280,
    "fastadv/engine": 4_300,
    "fastadv/evaluation": 3_340,
    "fastadv/features": 580,
    "fastadv/models": 3_670,
    "fastadv/ops": 6_979,
    "fastadv/runs": 1_305,
    "fastadv/studies": 4_805,
    "fastadv/threat": 530,
    "fastadv/train": 4_640,
    "tests": 48_165,
    "bench": 6_380,
    "tools": 1_110,
}
WORDS = 45_000  # of README and docs
DECISIONS = {"fastadv/attacks/core": 21.5, "fastadv/engine": 25.3}


@pytest.mark.parametrize("room", LINES)
def test_a_room_keeps_its_budget(room: str) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py"))
    assert lines <= LINES[room], f"{room} has {lines} lines; delete as many as were added"


@pytest.mark.parametrize("room", DECISIONS)
def test_a_room_has_few_decisions(room: str) -> None:
    assert per_hundred(ROOT / room) <= DECISIONS[room]


def test_every_room_has_a_budget() -> None:
    rooms = {f"fastadv/{path.parent.name}" for path in (ROOT / "fastadv").glob("*/__init__.py")}
    assert rooms == {room for room in LINES if "/" in room}


def test_the_docs_keep_their_budget() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts]
    assert sum(len(path.read_text().split()) for path in [ROOT / "README.md", *pages]) <= WORDS
