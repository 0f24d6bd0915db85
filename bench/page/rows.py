"""The rows of bench/results/, the newest of each measurement, and figures as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.records import RESULTS, Row, recorded

FILES = ("cpu.jsonl", "suite_cpu.jsonl")
# of what nobody can save, measured in the same run: the passes, a copy of the same bytes, multiply-adds
SHARES = ("share_of_ceiling", "share_of_copy", "share_of_fma_rate")


def name(row: Row) -> str:
    """What was measured; the shape where one op has several, the model and the budget of an attack's case."""
    if "case" in row:
        return f"{row['case']}, {row['model']}, {row['variant']}"
    return f"{row['what']} {'×'.join(map(str, row['shape']))}" if "shape" in row else str(row["what"])


def milliseconds(row: Row) -> float | None:
    """The median time, where the row has one."""
    if "seconds" in row:
        return 1000 * float(row["seconds"])
    return next((float(row[key]) for key in ("ms_per_image", "p50_ms") if key in row), None)


def share(row: Row) -> float | None:
    """The time that nobody can save over this one's, where the run measured it."""
    if "over_ideal" in row:
        return 1 / float(row["over_ideal"])
    return next((float(row[key]) for key in SHARES if key in row), None)


@dataclass(frozen=True)
class Rows:
    """The newest row of each (name, provider), oldest first."""

    newest: dict[tuple[str, str], Row]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Rows":
        found: dict[tuple[str, str], Row] = {}
        for row in sorted(rows, key=lambda row: row["date"]):
            key = name(row), row["provider"]
            found.pop(key, None)
            found[key] = row
        return cls(found)

    @classmethod
    def stored(cls) -> "Rows":
        return cls.of(row for file in FILES for row in recorded(RESULTS / file))

    def fitting(self, pattern: str, provider: str) -> list[Row]:
        """Those whose name fits, where * stands for anything; the newest last."""
        return [
            row for (known, by), row in self.newest.items() if by == provider and fnmatchcase(known, pattern)
        ]


def number(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def duration(taken: float) -> str:
    """Milliseconds in a unit that suits them."""
    for unit, size in (("s", 1000.0), ("ms", 1.0)):
        if taken >= size:
            return f"{number(taken / size)} {unit}"
    return f"{number(taken * 1000)} µs"
