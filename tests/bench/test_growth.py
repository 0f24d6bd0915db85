"""How time grows with the work, the constructed sets beside eager loops, and the figure of scaling."""

import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import abs_training, construct, run, scaling, turns
from bench.gpu import nets
from bench.gpu.construct import headless
from bench.page import figures, table
from bench.page import scaling as page
from bench.page.rows import Rows
from fastadv.models.abs.decoder import DecoderShape


def fitted(
    axis: str, sizes: tuple[int, ...], power: int, times: list[float], ceiling: list[float]
) -> list[Any]:
    medians = {"fastadv": times, "copy of the same bytes": ceiling}
    rows = scaling.fitted(f"scaling of linf_step_ with {axis}", axis, sizes, power, medians)
    return [{**row, "date": "2026"} for row in rows]


def once(ways: dict[str, Any], *_: object, **__: object) -> dict[str, list[float]]:
    """Each way is called once; the n-th takes n milliseconds."""
    for way in ways.values():
        way()
    return {name: [float(i)] for i, name in enumerate(ways, 1)}


class TestExponents:
    @pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
    def test_a_power_is_found_again(self, power: float) -> None:
        work = np.random.default_rng(0).uniform(1, 1000, 9)
        assert scaling.exponent(list(work), list(3 * work**power)) == pytest.approx(power)

    def test_work_grows_with_the_square_of_the_side(self) -> None:
        ours, ceiling = fitted("side", (8, 16, 32), 2, [1.0, 4.0, 16.0], [1.0, 8.0, 64.0])
        assert (ours["exponent"], ours["grows_faster_than_work"]) == (1.0, False)
        assert (ceiling["exponent"], ceiling["grows_faster_than_work"]) == (1.5, True)

    def test_more_threads_are_to_take_no_longer(self) -> None:
        ours, ceiling = fitted("threads", (1, 2, 4), 0, [4.0, 2.0, 1.0], [1.0, 1.2, 1.44])
        assert (ours["exponent"], ours["grows_faster_than_work"]) == (-1.0, False)
        assert ceiling["grows_faster_than_work"] is True

    def test_a_single_size_has_none(self) -> None:
        assert "exponent" not in fitted("threads", (1,), 0, [1.0], [1.0])[0]


class TestScaling:
    def test_every_axis_of_every_case_has_a_row_and_threads_are_as_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        few = {"batch": ((1, 2), 1), "side": ((16, 24), 2), "steps": ((1, 2), 1), "classes": ((2, 3), 1),
               "threads": ((1, 2), 0)}  # fmt: skip
        monkeypatch.setattr(scaling, "AXES", few)
        monkeypatch.setattr(
            scaling, "AXES_OF_OPS", {axis: few[axis] for axis in ("batch", "side", "threads")}
        )
        monkeypatch.setattr(scaling, "times", once)
        before = torch.get_num_threads()
        rows = list(scaling.rows(0.0))
        assert torch.get_num_threads() == before
        assert len(rows) == 2 * (5 + 3 + 3)
        assert {row["axis"] for row in rows if "PGD" in row["what"]} == set(few)
        assert all(len(set(row["p50_ms_at"])) == 1 and row["exponent"] == 0 for row in rows)

    def test_pgd_and_its_ceiling_pass_images_of_the_size_through_a_net_of_the_size(self) -> None:
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

    def test_what_grows_faster_is_named_with_its_ceiling(self) -> None:
        found = page.faster_than_work(self.rows)
        assert found == ["linf_step_ with images, exponent 1.30 (the ceiling's: 1.00)"]
        assert found[0] in table.growth(self.rows)
        assert table.growth(Rows.of([])) == ""

    def test_panels_hold_the_times_the_ceiling_and_the_fit(self) -> None:
        batch, side = page.draw(self.rows).axes
        lines = [list(line.get_ydata()) for line in batch.lines]
        assert lines[0] == [1.0, 10.0, 100.0]
        assert lines[1] == [1.0, 20.0, 400.0]
        assert np.diff(np.log10(lines[2])) == pytest.approx(1.301, abs=1e-3)
        assert batch.get_title(loc="left") == "images: e = 1.30 (1.00)"
        assert side.get_title(loc="left") == "image side: e = 1.00 (1.00)"

    def test_the_figure_shows_the_stored_rows(self) -> None:
        if not (shown := page.measured(Rows.stored())):
            pytest.skip("scaling has not been measured yet")
        assert figures.up_to_date("scaling.png", shown), "run python -m bench.page"


class TestConstruct:
    def test_each_provider_has_a_row_and_the_loops_find_what_ours_finds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(construct, "IMAGES", 20)
        monkeypatch.setattr(construct, "STEPS", 10)
        monkeypatch.setattr(construct, "WIDTH", 4)
        monkeypatch.setattr(construct, "times", once)
        rows = list(construct.rows(torch.device("cpu"), 0.0))
        providers = ["eager", "fastadv fp32", "fastadv bf16"]
        assert [row["provider"] for row in rows] == providers * 2
        assert [row["what"].split(",")[0] for row in rows] == ["D_rand"] * 3 + ["D_R"] * 3
        assert [row["share_of_ceiling"] for row in rows[:3]] == [4.0, 2.0, round(5 / 3, 3)]
        assert [row["times_eager"] for row in rows[:3]] == [1.0, 0.5, 0.33]
        for row in rows:
            if "objective_after" in row:
                assert row["objective_after"] < row["objective_before"]
            assert 0 <= row["fooling_rate"] <= 1

    def test_a_headless_net_gives_what_enters_its_last_layer(self) -> None:
        net, x = nets.small_net(width=4), torch.rand(3, 3, 32, 32)
        head = headless(net)
        assert torch.allclose(net.linear(head(x)), net(x), atol=1e-6)
        assert headless(nets.resnet18(width=4))(x).shape == (3, 32)


def test_abs_training_has_a_row_for_each_provider_at_losses_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abs_training, "times", once)
    monkeypatch.setattr(abs_training, "BATCHES", 1)
    shape = DecoderShape.for_images((1, 10, 10), 3, 2)
    rows = list(abs_training.rows(0.0, shape, 2))
    assert [row["provider"].split(",")[0] for row in rows] == ["eager", "fastadv fp32", "fastadv bf16"]
    assert [row["times_eager"] for row in rows] == [1.0, 0.5, 0.33]
    losses = [row["loss"] for row in rows]
    assert max(losses) < 1.1 * min(losses)
    assert min(losses) > 1


class TestRun:
    def test_the_suite_gets_the_places_of_the_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called: list[list[str]] = []
        monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append(command))
        places = {"data_dir": Path("a"), "weights": Path("b"), "out": Path("c")}
        run.suite(Namespace(only=["ops"], **places))
        run.suite(Namespace(only=["suite"], **{**places, "weights": None}))
        assert called == []
        run.suite(Namespace(only=["suite"], **places))
        assert called[0][-6:] == ["--data-dir", "a", "--weights", "b", "--out", "c"]

    def test_every_part_is_named_in_the_help(self) -> None:
        assert f"[--only {' '.join(run.PARTS)}]" in (run.__doc__ or "")
        assert set(turns.CASES) <= set(run.PARTS)
