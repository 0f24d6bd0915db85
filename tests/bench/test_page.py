"""README's table, that of PGD and the figure show the stored rows."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench.anchor.ways import Way
from bench.page import anchor, bars, machines, table
from bench.page.entries import PGD

MACHINES = machines.stored()


class TestPage:
    def test_pages_show_the_stored_rows(self):
        for marks, (path, inside) in anchor.sections(MACHINES).items():
            page = path.read_text()
            assert page == table.replaced(page, inside, marks), "run python -m bench.page"

    def test_the_figure_shows_the_stored_rows(self):
        assert bars.up_to_date("speed.png", machines.rows(MACHINES[-1])), "run python -m bench.page"


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
        days = {"A": "2026-01-02", "B": "2026-01-05"}
        shown = [
            {"net": {"pgd": {"cpu": cpu, "date": f"{day}T00:00", "provider": "pgd"}}}
            for cpu, day in days.items()
        ]
        bars.save(Figure(), "a.png", shown, tmp_path)
        assert bars.up_to_date("a.png", shown, tmp_path)
        assert not bars.up_to_date("a.png", shown[:1], tmp_path)
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.info["machine"] == "A, B"
            assert picture.info["date"] == "2026-01-02 to 2026-01-05"
