"""How time grows with the work, the figure of it, and the command `bench/run.py`."""

import json
import subprocess
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import run, stage, turns
from bench.page import figures, table
from bench.page import scaling as page
from bench.page.rows import Rows
from bench.session import Case, Row
from bench.subjects import scaling
from runs import OnCPU, known


def fitted(axis, sizes, power, times, ceiling):
    medians = {"fastadv": times, "copy of the same bytes": ceiling}
    rows = scaling.fitted(f"scaling of linf_step_ with {axis}", axis, sizes, power, medians)
    return [{**row, "date": "2026"} for row in rows]


class TestExponents:
    @pytest.mark.parametrize("power", [0.5, 1.7])
    def test_a_power_is_found_again(self, power):
        work = np.random.default_rng(0).uniform(1, 1000, 9)
        assert scaling.exponent(list(work), list(3 * work**power)) == pytest.approx(power)

    def test_what_grows_faster_than_its_work_is_told(self):
        """Work grows with the square of the side; more threads are to take no longer."""
        for axis, sizes, power, times, ceiling, exponents in (
            ("side", (8, 16, 32), 2, [1.0, 4.0, 16.0], [1.0, 8.0, 64.0], (1.0, 1.5)),
            ("threads", (1, 2, 4), 0, [4.0, 2.0, 1.0], [1.0, 2.0, 4.0], (-1.0, 1.0)),
        ):
            rows = fitted(axis, sizes, power, times, ceiling)
            assert tuple(row["exponent"] for row in rows) == exponents
            assert [row["grows_faster_than_work"] for row in rows] == [False, True]
        assert "exponent" not in fitted("threads", (1,), 0, [1.0], [1.0])[0]

    def test_pgd_and_its_ceiling_pass_images_of_the_size_through_a_net_of_the_size(self):
        ways = scaling.attack(scaling.Size(batch=2, side=20, steps=1, classes=7))
        x_adv = ways["fastadv fp32"]()
        assert isinstance(x_adv, torch.Tensor)
        assert x_adv.shape == (2, 3, 20, 20)
        assert ways["passes alone, fp32"]() is None


class TestFigure:
    rows = Rows.of([
        *fitted("batch", (1, 10, 100), 1, [1.0, 20.0, 400.0], [1.0, 10.0, 100.0]),
        *fitted("side", (8, 16), 2, [1.0, 4.0], [1.0, 4.0]),
    ])  # fmt: skip

    def test_what_grows_faster_is_named_with_its_ceiling(self):
        found = page.faster_than_work(self.rows)
        assert found == ["linf_step_ with images, exponent 1.30 (the ceiling's: 1.00)"]
        assert found[0] in table.growth(self.rows)
        assert table.growth(Rows.of([])) == ""

    def test_panels_hold_the_times_the_ceiling_and_the_fit(self):
        batch, side = page.draw(self.rows).axes
        lines = [list(line.get_ydata()) for line in batch.lines]
        assert lines[0] == [1.0, 10.0, 100.0]
        assert lines[1] == [1.0, 20.0, 400.0]
        assert np.diff(np.log10(lines[2])) == pytest.approx(1.301, abs=1e-3)
        assert batch.get_title(loc="left") == "images: e = 1.30 (1.00)"
        assert side.get_title(loc="left") == "image side: e = 1.00 (1.00)"

    def test_the_figure_shows_the_stored_rows(self):
        if not (shown := page.measured(Rows.stored())):
            pytest.skip("scaling has not been measured yet")
        assert figures.up_to_date("scaling.png", shown), "run python -m bench.page"


class TestRun:
    def test_the_suite_gets_the_places_of_the_data(self, monkeypatch):
        called: list[list[str]] = []
        monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append(command))
        places = {"data_dir": Path("a"), "weights": Path("b"), "out": Path("c")}
        run.suite(Namespace(only=["ops"], **places))
        run.suite(Namespace(only=["suite"], **{**places, "weights": None}))
        assert called == []
        run.suite(Namespace(only=["suite"], **places))
        assert called[0][-6:] == ["--data-dir", "a", "--weights", "b", "--out", "c"]

    def test_every_part_is_named_in_the_help(self):
        assert f"[--only {' '.join(run.PARTS)}]" in (run.__doc__ or "")
        assert set(turns.CASES) <= set(run.PARTS)

    def test_rows_are_appended_and_failures_are_told_instead(self, tmp_path, monkeypatch, capsys):
        def broken():
            yield {"what": "a", "provider": "fastadv", "p50_ms": 1.0}
            yield {"what": "a", "provider": "foolbox", "error": "E"}
            raise ValueError("no")

        cases = [Case("ours", broken), Case("next", lambda: iter([{"what": "b", "provider": "fastadv"}]))]
        monkeypatch.setattr(stage, "cases_of", lambda part, session: cases)
        out = tmp_path / "rows.jsonl"
        for _ in range(2):
            assert run.measure(known(OnCPU), ["ops"], out, {"date": "today"}) == 1
        rows: list[Row] = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows == [
            {"what": "a", "provider": "fastadv", "p50_ms": 1.0, "date": "today"},
            {"what": "b", "provider": "fastadv", "date": "today"},
        ] * 2  # fmt: skip
        assert "ops | ours: failed: ValueError: no" in capsys.readouterr().out
