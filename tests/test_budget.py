"""How many lines each room may have. What comes in is paid for by what goes out.

A limit is a target: who needs some lines more has 3% of slack. The whole may have 55,100 lines, the docs
45,000 words; the rooms that every call runs through have few decisions in 100 lines of code
(`tools/decisions.py`).
"""

from pathlib import Path

import pytest

from tools.decisions import per_hundred

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 55_100,
    "fastadv/adapters": 611,
    "fastadv/attacks": 12_850,
    "fastadv/certify": 1_027,
    "fastadv/cli": 3_195,
    "fastadv/data": 3_420,
    "fastadv/demo": 405,
    "fastadv/engine": 4_517,
    "fastadv/evaluation": 3_900,
    "fastadv/models": 3_677,
    "fastadv/ops": 6_945,
    "fastadv/runs": 1_240,
    "fastadv/threat": 1_180,
    "fastadv/train": 5_300,
    "tests": 53_500,
    "bench": 6_372,
    "tools": 1_109,
}
WORDS = 45_000  # of README and docs
SLACK = 1.03
DECISIONS = {"fastadv/attacks/core": 21.5, "fastadv/engine": 25.3}


@pytest.mark.parametrize("room", LINES)
def test_a_room_keeps_its_budget(room: str) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py"))
    most = LINES[room]
    assert lines <= SLACK * most, (
        f"{room} has {lines} lines, {most} are its limit; delete as many as were added"
    )


@pytest.mark.parametrize("room", DECISIONS)
def test_a_room_has_few_decisions(room: str) -> None:
    assert per_hundred(ROOT / room) <= SLACK * DECISIONS[room]


def test_every_room_has_a_budget() -> None:
    rooms = {f"fastadv/{path.parent.name}" for path in (ROOT / "fastadv").glob("*/__init__.py")}
    assert rooms == {room for room in LINES if "/" in room}


def test_the_docs_keep_their_budget() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts]
    assert sum(len(path.read_text().split()) for path in [ROOT / "README.md", *pages]) <= SLACK * WORDS
