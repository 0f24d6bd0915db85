"""docs/pitfalls.md, written from the rows between two marks."""

from collections.abc import Sequence

from bench.conduct.checks import ABSENT, RIGHT, WRONG
from bench.conduct.libraries import LIBRARIES
from bench.conduct.pitfalls import PITFALLS, Pitfall
from bench.records import RESULTS, ROOT, Row, recorded

STORE = RESULTS / "conduct.jsonl"
PAGE = ROOT / "docs" / "pitfalls.md"
BEGIN, END = "<!-- written by python -m bench.conduct -->", "<!-- end of what is written -->"


def cell(rows: Sequence[Row]) -> str:
    """One library and one pitfall in a word, or how many of the attacks tried are wrong."""
    outcomes = [row["outcome"] for row in rows if row["outcome"] in (RIGHT, WRONG)]
    wrong = outcomes.count(WRONG)
    if not outcomes:
        return "–" if all(row["outcome"] == ABSENT for row in rows) else "not tried"
    if len(outcomes) == 1 or wrong in (0, len(outcomes)):
        return f"**{WRONG}**" if wrong else RIGHT
    return f"**{wrong} of {len(outcomes)} wrong**"


def figures(rows: Sequence[Row]) -> list[str]:
    """Attacks with what was measured of them: of wrong ones each figure once, of right ones the first."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row["outcome"] not in (RIGHT, ABSENT):
            said.setdefault(f"{row['outcome']}: {row['text']}", []).append(row["attack"])
    lines = [f"{', '.join(f'`{name}`' for name in names)}: {text}" for text, names in said.items()]
    good = [row for row in rows if row["outcome"] == RIGHT]
    if good:
        one = f"`{good[0]['attack']}`: right: {good[0]['text']}"
        lines.append(one + (f" ({len(good) - 1} more right)" if len(good) > 1 else ""))
    return lines


def section(number: int, pitfall: Pitfall, rows: Sequence[Row]) -> list[str]:
    check = pitfall.check
    file = f"bench/conduct/checks/{check.__module__.rpartition('.')[2]}.py"
    tests = ", ".join(
        f"[`{name}`](../tests/attacks/{file})" for file, name in (test.split("::") for test in pitfall.tests)
    )
    lines = [
        f"## {number}. {pitfall.title}", "", f"{pitfall.wrong} {pitfall.matters}", "",
        f"Check: [`{check.__name__}`](../{file}). {(check.__doc__ or '').strip()} fastadv's tests: {tests}.",
    ]  # fmt: skip
    if pitfall.told:
        lines += ["", pitfall.told]
    lines.append("")
    for library in LIBRARIES:
        for text in figures([row for row in rows if row["library"] == library]):
            lines.append(f"- {library}, {text}")
    return [*lines, ""]


def table(rows: Sequence[Row]) -> list[str]:
    shown = [library for library in LIBRARIES if any(row["library"] == library for row in rows)]
    versions = {row["library"]: row["version"] for row in rows}
    heads = [f"{name} {versions[name]}" for name in shown]
    lines = [f"| {' | '.join(('', *heads))} |", "| --- " * (len(shown) + 1) + "|"]
    for number, pitfall in enumerate(PITFALLS, 1):
        own = [row for row in rows if row["pitfall"] == number]
        cells = [cell([row for row in own if row["library"] == name]) for name in shown]
        lines.append(f"| {' | '.join((f'{number}. {pitfall.title}', *cells))} |")
    return lines


def origin(rows: Sequence[Row]) -> str:
    """The days, the versions and the machine of the rows."""
    days, torch, cpus, commits = (
        ", ".join(sorted({str(row[name]) for row in rows})) for name in ("date", "torch", "cpu", "commit")
    )
    return f"Measured {days} with PyTorch {torch} on {cpus}, commit {commits}."


def written(rows: Sequence[Row]) -> str:
    """The part between the marks."""
    lines = ["", *table(rows), "", origin(rows), ""]
    for number, pitfall in enumerate(PITFALLS, 1):
        lines += section(number, pitfall, [row for row in rows if row["pitfall"] == number])
    return "\n".join(lines)


def replaced(page: str, inside: str) -> str:
    before, mark, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"bench: expected the marks {BEGIN} and {END} in {PAGE.name}, found none")
    return f"{before}{mark}{inside}{end}{after}"


def stored() -> list[Row]:
    return list(recorded(STORE))


def write() -> None:
    PAGE.write_text(replaced(PAGE.read_text(), written(stored())))
