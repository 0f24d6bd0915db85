"""How many lines each room may have. A number goes down with what is deleted, and up for nothing else.

The aim is 48,000 lines for fastadv, 50,000 for tests, 6,000 for bench and 45,000 words of docs.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 50_650,
    "fastadv/adapters": 1_250,
    "fastadv/attacks": 10_950,
    "fastadv/cli": 3_800,
    "fastadv/data": 3_500,
    "fastadv/engine": 5_100,
    "fastadv/evaluation": 3_300,
    "fastadv/features": 650,
    "fastadv/models": 3_550,
    "fastadv/ops": 6_450,
    "fastadv/runs": 1_350,
    "fastadv/studies": 4_800,
    "fastadv/threat": 600,
    "fastadv/train": 4_700,
    "tests": 54_000,
    "bench": 6_000,
    "tools": 1_100,
}
WORDS = 42_300  # of README and docs


@pytest.mark.parametrize("room", LINES)
def test_a_room_keeps_its_budget(room: str) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / room).rglob("*.py"))
    assert lines <= LINES[room], f"{room} has {lines} lines; delete as many as were added"


def test_every_room_has_a_budget() -> None:
    rooms = {f"fastadv/{path.parent.name}" for path in (ROOT / "fastadv").glob("*/__init__.py")}
    assert rooms == {room for room in LINES if "/" in room}


def test_the_docs_keep_their_budget() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts]
    assert sum(len(path.read_text().split()) for path in [ROOT / "README.md", *pages]) <= WORDS
