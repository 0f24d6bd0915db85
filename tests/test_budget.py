"""How many lines each room may have. What comes in is paid for by what goes out.

The whole may have 50,840 lines in at most 450 files, the docs 45,000 words.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 50_840,
    "fastadv/adapters": 600,
    "fastadv/attacks": 10_950,
    "fastadv/certify": 1_030,
    "fastadv/cli": 3_300,
    "fastadv/data": 3_350,
    "fastadv/engine": 5_230,
    "fastadv/evaluation": 3_420,
    "fastadv/features": 600,
    "fastadv/models": 3_650,
    "fastadv/ops": 6_590,
    "fastadv/runs": 1_350,
    "fastadv/studies": 4_850,
    "fastadv/threat": 550,
    "fastadv/train": 4_350,
    "tests": 53_780,
    "bench": 6_000,
    "tools": 1_100,
}
WORDS = 45_000  # of README and docs


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
