"""How many lines each room may have. What comes in is paid for by what goes out.

The whole may have 50,270 lines, the docs 45,000 words; the rooms that every call runs through have few
decisions in 100 lines of code (`tools/decisions.py`).
"""

from pathlib import Path

import pytest

from tools.decisions import per_hundred

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 50_300,
    "fastadv/adapters": 600,
    "fastadv/attacks": 10_900,
    "fastadv/certify": 1_030,
    "fastadv/cli": 3_300,
    "fastadv/data": 3_350,
    "fastadv/engine": 4_814,
    "fastadv/evaluation": 3_420,
    "fastadv/features": 600,
    "fastadv/models": 3_650,
    "fastadv/ops": 6_510,
    "fastadv/runs": 1_350,
    "fastadv/studies": 4_850,
    "fastadv/threat": 550,
    "fastadv/train": 4_350,
    "tests": 49_460,
    "bench": 6_000,
    "tools": 1_100,
}
WORDS = 45_000  # of README and docs
DECISIONS = {"fastadv/attacks/core": 21.6, "fastadv/engine": 25.4}


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
