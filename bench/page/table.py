"""The table of every comparison on the benchmarks page, and the part of a page between two marks."""

from collections.abc import Callable, Sequence

from bench.page.entries import ENTRIES, Entry
from bench.page.rows import Row, Rows, duration, milliseconds, number, share
from bench.records import ROOT

README = ROOT / "README.md"
HEAD = """| what | against | times faster | here | share of the ceiling |
| --- | --- | --- | --- | --- |"""


def portion(value: float) -> str:
    """A dash for what is bound by the call itself."""
    return number(value) if value >= 0.005 else "–"


def factor(value: float) -> str:
    """In bold where fastadv loses."""
    return f"**{number(value)}**" if round(value, 2) < 1 else number(value)


def times(entry: Entry, row: Row) -> float:
    if entry.base:
        return entry.base / (milliseconds(row) or float("nan"))
    return float(row[entry.column])


def chosen(entry: Entry, rows: Rows) -> list[Row]:
    """The rows of a line in its order; none where one is missing."""
    found = []
    for pattern in entry.names:
        for provider in entry.providers:
            fitting = rows.fitting(pattern, provider)
            if not fitting:
                return []
            found += fitting if entry.whole else fitting[-1:]
    return found


def cell(values: Sequence[float | None], show: Callable[[float], str], whole: bool) -> str:
    """The figures of a line, or the least and the most of them; nothing where a row lacks its own."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    if whole:
        return " to ".join(dict.fromkeys(map(show, (min(known), max(known)))))
    return " / ".join(map(show, known))


def line(entry: Entry, rows: Rows) -> str | None:
    """A line of the table; None where its rows have not been measured."""
    if not (found := chosen(entry, rows)):
        return None
    cells = (
        entry.label,
        entry.against,
        cell([times(entry, row) for row in found], factor, entry.whole),
        cell([milliseconds(row) for row in found], duration, entry.whole),
        cell([share(row) for row in found], portion, entry.whole),
    )
    return f"| {' | '.join(cells)} |"


def origin(rows: Rows) -> str:
    """The machine, the versions and the days of the rows in the table."""
    used = [row for entry in ENTRIES for row in chosen(entry, rows)]
    machines, versions, commits = (
        ", ".join(sorted({say.format(**row) for row in used}))
        for say in ("{cpu} ({threads} threads)", "{torch}", "{commit}")
    )
    days = sorted({row["date"][:10] for row in used})
    return (
        f"Measured on {machines} with PyTorch {versions}, {' to '.join(dict.fromkeys((days[0], days[-1])))}, "
        f"commits {commits}."
    )


def memory(rows: Rows) -> str:
    row = rows.fitting("peak memory, *", "fastadv pgd")[-1]
    return (
        f"The peak memory of PGD on a CNN ({row['mib']:.0f} MiB for 1,000 images) is "
        f"{number(row['times_forward_backward'])} of that of one eager forward and backward pass."
    )


def section(rows: Rows) -> str:
    """Everything that was measured, for docs/benchmarks/index.md."""
    lines = [text for entry in ENTRIES if (text := line(entry, rows))]
    return "\n".join((HEAD, *lines, "", f"{origin(rows)} {memory(rows)}", ""))


def replaced(page: str, inside: str, name: str = "speed") -> str:
    """The page with the part between the marks of that name written anew."""
    begin, end = f"<!-- {name}: written by python -m bench.page -->\n", f"<!-- end of {name} -->"
    before, mark, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not (mark and last):
        raise SystemExit(f"bench: expected the marks {begin.strip()} and {end} in the page, found none")
    return f"{before}{mark}{inside}{last}{after}"
