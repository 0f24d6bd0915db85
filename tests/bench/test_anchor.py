"""PGD against the best of all peers: a worker in its own process, and the rows that its times give."""

from contextlib import closing
from typing import ClassVar

import pytest

from bench.anchor import __main__ as command
from bench.anchor.rows import Taken, rows
from bench.anchor.ways import FROZEN, PASSES, WAYS, Way
from bench.ceilings import Ceilings
from bench.page import machines
from bench.page.entries import PGD
from bench.providers import LOOP


class TestProcesses:
    @pytest.mark.slow
    def test_a_real_worker_in_its_own_process(self):
        worker = command.started("mlp", Way(LOOP), ["--images=4", "--steps=2"])
        with closing(worker):
            assert worker.ask("warm") == {}
            assert worker.ask("turn")["ms"] > 0
            found = worker.ask("found")
        assert found["what"] == "PGD-2 Linf 0.3, 4 images, MLP 784-256-10"
        assert found["distance"] == pytest.approx(0.02, abs=1e-4)


class TestRows:
    # in each turn, in ms: adv-lib with pages kept has the least median, though not the least of all times
    TIMES: ClassVar = {
        Way("torchattacks"): [1.0, 9.0, 9.0], Way("adv-lib", True): [4.0, 6.0, 8.0],
        Way(FROZEN[0]): [4.0, 3.0, 2.0], Way(FROZEN[1]): [1.0, 1.0, 1.0],
        Way(PASSES[0]): [2.0, 2.0, 2.0], Way(PASSES[1]): [1.0, 1.0, 1.0],
    }  # fmt: skip

    @pytest.fixture
    def found(self):
        taken = [Taken(way, ms, [3, 1, 2], {"what": "w"}, 6e9) for way, ms in self.TIMES.items()]
        made = rows(taken, Ceilings(1, 30.0, {"fp32": 10.0, "bf16": 24.0}))
        return {Way(row["provider"], row["pages_kept"]): row for row in made}

    def test_the_best_is_that_of_the_least_median_and_ratios_are_of_the_same_turn(self, found):
        row = found[Way(FROZEN[0])]
        assert (row["best"], row["best_pages_kept"]) == ("adv-lib", True)
        assert [row[f"times_best{end}"] for end in ("_p20", "", "_p80")] == [1.0, 2.0, 4.0]
        assert (row["p20_ms"], row["p50_ms"], row["p80_ms"], row["turns"]) == (2.0, 3.0, 4.0, 3)
        assert row["faults"] == 2

    def test_the_ceilings(self, found):
        row = found[Way(FROZEN[0])]
        assert row["share_of_ceiling"] == 0.667
        assert row["limit"] == found[Way(PASSES[0])]["times_best"] == 3.0
        assert row["share_of_fp32_product"] == 0.2  # 6 GFLOP in 3 ms, of 10 TFLOP/s
        assert found[Way(FROZEN[1])]["share_of_bf16_product"] == 0.25
        assert found[Way(FROZEN[1])]["limit"] == 6.0
        assert (row["fp32_product_tflop_per_s"], row["copy_gb_per_s"]) == (10.0, 30.0)

    def test_a_peer_is_compared_with_nothing(self, found):
        assert not {"times_best", "limit", "share_of_ceiling"} & found[Way("torchattacks")].keys()


def stored(commit="a", day=1, cpu="A", factor=1.2, **milliseconds):
    """All rows of one run; of each provider so many ms, 2,000 where none are given."""
    return [
        {"what": what, "provider": way.provider, "pages_kept": way.kept, "commit": commit, "cpu": cpu,
         "threads": 2, "torch": "2", "date": f"2026-01-0{day}T00", "p20_ms": 0.9 * ms, "p50_ms": ms,
         "p80_ms": 1.5 * ms, "faults": 1500, "accuracy": 0.0, "times_best": factor,
         "times_best_p20": factor - 0.1, "times_best_p80": factor + 0.1, "limit": 1.3,
         "share_of_ceiling": 0.9, "share_of_fp32_product": 0.5, "share_of_bf16_product": 0.25,
         "fp32_product_tflop_per_s": 0.2, "bf16_product_tflop_per_s": 0.5, "copy_gb_per_s": 20.0}
        for what in PGD.values() for way in WAYS
        for ms in [milliseconds.get(way.provider.replace("-", "_"), 2000.0) + way.kept]
    ]  # fmt: skip


NET = next(iter(PGD))


class TestMachines:
    def test_runs_of_one_commit_are_one_with_the_range_of_all(self):
        (machine,) = machines.machines([*stored(factor=1.5, day=2, adv_lib=1000.0), *stored(adv_lib=500.0)])
        row = machine[NET][Way("adv-lib")]
        assert (row["p20_ms"], row["p50_ms"], row["p80_ms"]) == (450.0, 750.0, 1500.0)
        assert [row[f"times_best{end}"] for end in ("_p20", "", "_p80")] == pytest.approx([1.1, 1.35, 1.6])
        assert row["days"] == ["2026-01-01", "2026-01-02"]

    def test_the_newest_commit_that_has_all_rows_counts_on_each_machine(self):
        rows = [*stored("old", 1), *stored("new", 3), *stored("cut", 4)[:-1], *stored("b", 2, "B")]
        found = machines.machines(rows)
        assert [{row["commit"] for row in machines.rows(machine)} for machine in found] == [{"b"}, {"new"}]
