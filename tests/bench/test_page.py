"""README's line, the table of the benchmarks and the figure show all stored rows, those that lose too."""

import pytest

from bench.page import anchor, calls, table
from bench.page.table import ENTRIES, Rows, name

STORED, MACHINES = Rows.stored(), anchor.stored()


def row(provider="fastadv fp32", date="2026-01-02", **figures):
    return {"what": "PGD", "provider": provider, "date": f"{date}T00:00:00+00:00", **figures}


class TestPage:
    def test_pages_show_the_stored_rows(self):
        for marks, (path, inside) in anchor.sections(MACHINES).items():
            page = path.read_text()
            assert page == table.replaced(page, inside, marks), "run python -m bench.page"

    def test_the_figure_shows_the_stored_rows(self):
        assert calls.up_to_date("speed.png", calls.shown(calls.newest())), "run python -m bench.page"

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


class TestFigures:
    def test_bars_are_as_long_as_the_rows_say_and_lines_span_their_turns(self):
        stored = calls.newest()
        nets = calls.shown(stored)
        (axes,) = calls.draw(nets).axes
        rows = [row for ways in nets for row in ways]
        assert {(row["way"], row["call"]) for row in rows} == {("plain", "PGD-10"), ("frozen", "PGD-10")}
        most = [max(key[2] for key in stored if key[:2] == (row["net"], "PGD-10")) for row in rows]
        assert [row["images"] for row in rows] == most
        assert [1 / patch.get_width() for patch in axes.patches] == pytest.approx(
            [row["times"] for row in rows]
        )
        _, *spans = (line.get_xdata() for line in axes.lines)
        assert [1 / low for low, _ in spans] == pytest.approx([row["most"] for row in rows])
        assert [1 / high for _, high in spans] == pytest.approx([row["least"] for row in rows])
        assert [text.get_text().split()[-2] for text in axes.texts] == [f"{row['times']:.2f}" for row in rows]
