"""README's line, the tables, the figure and the pages show all stored rows, those that lose too."""

from bench import records
from bench.page import calls, table
from bench.page.__main__ import sections
from bench.page.table import ENTRIES, Rows, name
from bench.suite import frontier, wall
from fastadv.text import in_markdown
from tests.parity.store import STORES, stored

STORED = Rows.stored()


class TestPage:
    def test_pages_show_the_stored_rows(self):
        for path, inside, marks in sections(STORED):
            page = path.read_text()
            assert page == table.replaced(page, inside, marks), "run python -m bench.page"

    def test_the_figure_shows_the_stored_rows(self):
        assert calls.up_to_date("speed.png", calls.shown(calls.newest())), "run python -m bench.page"

    def test_the_frontier_shows_the_stored_rows_and_compares_those_of_the_same_images(self):
        rows = [*records.recorded(records.RESULTS / "frontier.jsonl")]
        page = (records.RESULTS / "autoattack.md").read_text()
        assert in_markdown([*frontier.lines(rows)], names=4) in page
        mixed = [row | {"images": 7} if row["provider"] == "quick" else row for row in rows]
        assert "quick" not in next(frontier.lines(mixed))

    def test_no_line_is_missing(self):
        assert [entry.label for entry in ENTRIES if not table.chosen(entry, STORED)] == []

    def test_what_the_stored_rows_say_fastadv_loses_is_in_the_table(self):
        shown = [id(row) for entry in ENTRIES for row in table.chosen(entry, STORED)]
        lost = [
            row
            for row in STORED.newest.values()
            if row["provider"].startswith("fastadv")
            and row.get("variant") in ("quick", "full")
            and row["times_peer"] is not None
            and row["times_peer"] < 1
        ]
        assert len(lost) > 2
        assert [name(row) for row in lost if id(row) not in shown] == []

    def test_the_pages_of_all_attacks_show_the_stored_rows(self):
        rows = stored(STORES["full"])
        assert wall.PAGE.read_text() == wall.page(rows), "run `python -m bench.suite.wall`"
        assert wall.TABLES.read_text() == wall.tables(rows), "run `python -m bench.suite.wall`"
