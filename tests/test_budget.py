"""How many lines and files each room may have, by the table of the design: what comes in is paid for.

A limit is a target: who needs some lines more has 3% of slack. It changes in a commit of its own, which says
why. The rooms that every call runs through have few decisions in 100 lines of code (`tools/decisions.py`).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.decisions import per_hundred

ROOT = Path(__file__).parent.parent
LINES = {
    "fastadv": 48_900,
    "fastadv/adapters": 535,
    "fastadv/attacks": 12_250,
    "fastadv/attacks/core": 3_160,
    "fastadv/certify": 610,
    "fastadv/cli": 1_530,
    "fastadv/data": 4_330,
    "fastadv/demo": 380,
    "fastadv/engine": 3_600,
    "fastadv/evaluation": 4_650,
    "fastadv/measure": 1_000,
    "fastadv/models": 4_030,
    "fastadv/ops": 6_750,
    "fastadv/runs": 770,
    "fastadv/threat": 1_180,
    "fastadv/train": 5_010,
    "tests": 43_000,
    "bench": 5_230,
    "papers": 5_640,
    "papers/tests": 1_910,
    "tools": 1_140,
}
APART = {"papers": "papers/tests"}  # counted by itself
FILES = {"fastadv": (368, "*.py"), "bench": (60, "*")}  # results are counted, too
WORDS = 36_500  # of README and docs
SLACK = 1.03
DECISIONS = {"fastadv/attacks/core": 20.0, "fastadv/engine": 22.0}


def files(room: str, pattern: str = "*.py") -> Iterator[Path]:
    apart = ROOT / APART[room] if room in APART else None
    for path in (ROOT / room).rglob(pattern):
        if path.is_file() and apart not in path.parents and path.suffix != ".pyc":
            yield path


def keeps(room: str, count: float, most: float, what: str) -> None:
    assert count <= SLACK * most, (
        f"{room} has {count:,} {what}, {most:,} are its limit: delete what it outgrew, or raise it in a "
        "commit that says why"
    )


@pytest.mark.parametrize("room", LINES)
def test_a_room_keeps_its_lines(room: str) -> None:
    lines = sum(len(path.read_text().splitlines()) for path in files(room))
    keeps(room, lines, LINES[room], "lines")


@pytest.mark.parametrize("room", FILES)
def test_a_room_keeps_its_files(room: str) -> None:
    most, pattern = FILES[room]
    keeps(room, len([*files(room, pattern)]), most, "files")


@pytest.mark.parametrize("room", DECISIONS)
def test_a_room_has_few_decisions(room: str) -> None:
    keeps(room, per_hundred(ROOT / room), DECISIONS[room], "decisions in 100 lines")


def test_every_room_has_a_budget() -> None:
    rooms = {f"fastadv/{path.parent.name}" for path in (ROOT / "fastadv").glob("*/__init__.py")}
    assert rooms == {room for room in LINES if room.startswith("fastadv/") and room.count("/") == 1}


def test_the_docs_keep_their_budget() -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts]
    words = sum(len(path.read_text().split()) for path in [ROOT / "README.md", *pages])
    keeps("docs", words, WORDS, "words")
