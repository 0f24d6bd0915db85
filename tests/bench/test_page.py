"""README's table, that of the benchmarks and the figures show all stored rows, those that lose too."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench.anchor.ways import Way
from bench.page import anchor, bars, machines, table
from bench.page.entries import ENTRIES, PGD, Entry
from bench.page.rows import Rows, name

STORED, MACHINES = Rows.stored(), machines.stored()


def row(provider="fastadv fp32", date="2026-01-02", **figures):
    return {"what": "PGD", "provider": provider, "date": f"{date}T00:00:00+00:00", **figures}


class TestPage:
    def test_pages_show_the_stored_rows(self):
        for marks, (path, inside) in anchor.sections(MACHINES).items():
            page = path.read_text()
            assert page == table.replaced(page, inside, marks), "run python -m bench.page"

    def test_the_figure_shows_the_stored_rows(self):
        assert bars.up_to_date("speed.png", machines.rows(MACHINES[-1])), "run python -m bench.page"

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


class TestLines:
    entry = Entry("PGD, fp32 / bf16", "a peer", ("P*",), ("fastadv fp32", "fastadv bf16"), "times")

    def test_providers_stand_side_by_side_and_losses_in_bold(self):
        rows = Rows.of([
            row(p50_ms=1234.0, times=0.94, share_of_ceiling=0.5),
            row("fastadv bf16", p50_ms=0.0123, times=12.3, share_of_ceiling=0.001),
        ])  # fmt: skip
        assert table.line(self.entry, rows) == (
            "| PGD, fp32 / bf16 | a peer | **0.94** / 12 | 1.2 s / 12 µs | 0.50 / – |"
        )


class TestFigures:
    @pytest.mark.slow
    def test_bars_are_as_long_as_the_rows_say_and_lines_span_their_turns(self):
        machine = MACHINES[-1]
        assert list(machine) == list(PGD)
        for axes, known in zip(bars.draw(machine).axes, machine.values(), strict=True):
            base, shown = known[Way("torchattacks")]["p50_ms"], [known[way] for way in bars.SHOWN]
            assert [patch.get_width() * base for patch in axes.patches] == pytest.approx(
                [row["p50_ms"] for row in shown]
            )
            dotted, *spans = (line.get_xdata() for line in axes.lines)
            assert dotted[0] * base == pytest.approx(known[machines.best(known)]["p50_ms"])
            assert [low * base for low, _ in spans] == pytest.approx([row["p20_ms"] for row in shown])
            assert [high * base for _, high in spans] == pytest.approx([row["p80_ms"] for row in shown])

    def test_a_figure_knows_its_rows(self, tmp_path):
        shown = [{"net": {"pgd": row(cpu="A")}}, {"net": {"pgd": row(cpu="B", date="2026-01-05")}}]
        bars.save(Figure(), "a.png", shown, tmp_path)
        assert bars.up_to_date("a.png", shown, tmp_path)
        assert not bars.up_to_date("a.png", shown[:1], tmp_path)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.info["machine"] == "A, B"
            assert picture.info["date"] == "2026-01-02 to 2026-01-05"
