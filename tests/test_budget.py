"""How many lines each room may have. A number goes down with what is deleted, and up for nothing else.

The aim is 48,000 lines for fastadv, 50,000 for tests, 6,000 for bench and 45,000 words of docs.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 55_100,
    "fastadv/adapters": 1_500,
    "fastadv/attacks": 11_300,
    "fastadv/cli": 4_400,
    "fastadv/data": 3_850,
    "fastadv/engine": 5_400,
    "fastadv/evaluation": 3_700,
    "fastadv/features": 650,
    "fastadv/models": 3_600,
    "fastadv/ops": 6_950,
    "fastadv/runs": 1_450,
    "fastadv/studies": 5_600,
    "fastadv/threat": 600,
    "fastadv/train": 5_400,
    "tests": 57_700,
    "bench": 6_250,
    "tools": 1_100,
}
WORDS = 43_200  # of README and docs


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
