"""Write README's table of speed, and speed.png and scaling.png of docs/figures/, from the stored rows.

    python -m bench.page

Lines whose rows have not been measured yet are left out, and named.
"""

from bench import records
from bench.page import bars, figures, peers, scaling, table
from bench.page.entries import ENTRIES
from bench.page.rows import Rows


def main() -> None:
    records.parser(__doc__, prog="python -m bench.page").parse_args()
    rows = Rows.stored()
    for entry in ENTRIES:
        if not table.chosen(entry, rows):
            print(f"not measured yet: {entry.label}")
    runs = peers.stored()
    table.README.write_text(table.replaced(table.README.read_text(), peers.section(runs)))
    figures.save(bars.draw(runs), "speed.png", runs)
    if shown := scaling.measured(rows):
        figures.save(scaling.draw(rows), "scaling.png", shown)
    else:
        print("not measured yet: scaling")


if __name__ == "__main__":
    main()
