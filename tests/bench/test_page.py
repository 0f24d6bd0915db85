"""README's table, the tables, the figure and the pages show all stored rows, those that lose too."""

from bench import records
from bench.page import calls, listing, table
from bench.page.__main__ import sections
from bench.page.table import ENTRIES, Rows
from bench.suite import frontier, wall
from fastadv.text import in_markdown
from tests.parity.store import STORES, stored

STORED = Rows.stored()


def test_pages_show_the_stored_rows():
    for path, inside, marks in sections(STORED):
        page = path.read_text()
        assert page == table.replaced(page, inside, marks), "run python -m bench.page"


def test_the_figure_shows_the_stored_rows():
    assert calls.up_to_date("speed.png", calls.shown(calls.newest())), "run python -m bench.page"


def test_the_frontier_shows_the_stored_rows_and_compares_those_of_the_same_images():
    rows = [*records.recorded(records.RESULTS / "frontier.jsonl")]
    page = (records.RESULTS / "autoattack.md").read_text()
    assert in_markdown([*frontier.lines(rows)], names=4) in page
    mixed = [row | {"images": 7} if row["provider"] == "quick" else row for row in rows]
    assert "quick" not in next(frontier.lines(mixed))


def test_no_line_is_missing():
    assert [entry.label for entry in ENTRIES if not table.chosen(entry, STORED)] == []


def test_a_case_that_fastadv_loses_is_bold():
    page = listing.ATTACKS.read_text().splitlines()
    ours = [row for (_, provider), row in STORED.newest.items() if provider == listing.OURS]
    lost = [row["case"] for row in ours if (row.get("times_peer") or 1) < 0.995]
    assert len(lost) > 2
    told = {case: [line for line in page if f"`{case}`" in line] for case in lost}
    assert [case for case, lines in told.items() if "**" not in "".join(lines)] == []


def test_the_pages_of_all_attacks_show_the_stored_rows():
    rows = stored(STORES["full"])
    assert wall.PAGE.read_text() == wall.page(rows), "run `python -m bench.suite.wall`"
    assert wall.TABLES.read_text() == wall.tables(rows), "run `python -m bench.suite.wall`"
