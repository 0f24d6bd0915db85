"""PGD against the best of all peers: a worker in its own process, and the rows that its times give."""

from contextlib import closing
from typing import ClassVar

import pytest

from bench.anchor import __main__ as command
from bench.anchor.rows import Taken, rows
from bench.anchor.ways import FROZEN, PASSES, Way
from bench.ceilings import Ceilings
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
