"""Write tables of bench/results/, a line of README, a sentence of a guide, and a figure, from stored rows.

    python -m bench.page

Lines whose rows have not been measured yet are left out, and named.
"""

from bench import records
from bench.page import anchor, calls, corruptions, table
from bench.page.table import ENTRIES, Rows


def main() -> None:
    records.parser(__doc__, prog="python -m bench.page").parse_args()
    rows = Rows.stored()
    for entry in ENTRIES:
        if not table.chosen(entry, rows):
            print(f"not measured yet: {entry.label}")
    measured = anchor.stored()
    for name, (page, inside) in anchor.sections(measured).items():
        page.write_text(table.replaced(page.read_text(), inside, name))
    if calls.newest():
        calls.PAGE.write_text(table.replaced(calls.PAGE.read_text(), calls.text(), "calls"))
    for page, inside in zip(corruptions.PAGES, corruptions.sections(rows), strict=True):
        page.write_text(table.replaced(page.read_text(), inside, "corruptions"))
    nets = calls.shown(calls.newest())
    calls.save(calls.draw(nets), "speed.png", nets)


if __name__ == "__main__":
    main()
