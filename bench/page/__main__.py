"""Write tables of bench/results/, a table of README, a sentence of a guide, and a figure, from stored rows.

    python -m bench.page

Lines whose rows have not been measured yet are left out, and named.
"""

from collections.abc import Iterator
from pathlib import Path

from bench import records
from bench.page import anchor, calls, corruptions, listing, table
from bench.page.table import ENTRIES, README, Rows


def sections(rows: Rows) -> Iterator[tuple[Path, str, str]]:
    """Yield pages, what stands there between marks, and the name of these."""
    newest = calls.newest()
    yield README, calls.summary(newest), "speed"
    yield calls.PAGE, calls.text(newest), "calls"
    yield listing.ATTACKS, listing.attacks(rows), "attacks"
    yield listing.TRAINING, listing.training(rows), "training"
    yield anchor.PAGE, anchor.section(anchor.stored()), "anchor"
    for page, inside in zip(corruptions.PAGES, corruptions.sections(rows), strict=True):
        yield page, inside, "corruptions"


def main() -> None:
    records.parser(__doc__, prog="python -m bench.page").parse_args()
    rows = Rows.stored()
    for entry in ENTRIES:
        if not table.chosen(entry, rows):
            print(f"not measured yet: {entry.label}")
    for page, inside, marks in sections(rows):
        page.write_text(table.replaced(page.read_text(), inside, marks))
    nets = calls.shown(calls.newest())
    calls.save(calls.draw(nets), "speed.png", nets)


if __name__ == "__main__":
    main()
