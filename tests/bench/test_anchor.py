"""PGD against the best of all peers: processes in turns, what their times say, and the tables of them."""

import platform
import subprocess
import sys
from contextlib import closing
from typing import ClassVar

import pytest

from bench.anchor import __main__ as command
from bench.anchor.rows import Taken, rows
from bench.anchor.ways import FROZEN, PASSES, UNFROZEN, WAYS, Way
from bench.anchor.worker import Worker
from bench.ceilings import Ceilings
from bench.compare import Answering
from bench.page import machines
from bench.page.entries import PGD
from bench.providers import LOOP
from runs import OnCPU, known

# a provider that notes what it is asked, and whose milliseconds are those of its command
STUB = """
import json, sys
name, log, milliseconds = sys.argv[1:]
for line in sys.stdin:
    with open(log, "a") as file:
        file.write(f"{name} {line}")
    answers = {"warm": {"error": "no such package"} if name == "absent" else {},
               "turn": {"ms": float(milliseconds), "faults": 7}, "found": {"what": "w"},
               "flops": {"flops": 3e9}}
    print(json.dumps(answers[line.strip()]), flush=True)
"""
TOUCHES = """
import resource
for _ in range(8):
    b"1" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Stubs in the place of workers; the file that tells what each was asked."""
    path = tmp_path / "log"

    def started(net, way, places):
        wait = str(len(way.provider))
        return Answering((sys.executable, "-c", STUB, way.provider, str(path), wait), way.environment())

    monkeypatch.setattr(command, "started", started)
    return path


class TestProcesses:
    @pytest.mark.slow
    def test_all_are_warm_before_they_take_turns_one_call_each(self, log):
        first, second = command.measured("mlp", 2, (), (Way("aa"), Way("bbb", True)))
        assert log.read_text().split("\n")[:-1] == [
            "aa warm", "bbb warm", "aa turn", "bbb turn", "bbb turn", "aa turn",
            "bbb flops", "aa found", "bbb found",
        ]  # fmt: skip
        assert first == Taken(Way("aa"), [2.0, 2.0], [7, 7], {"what": "w"}, 3e9)
        assert second == Taken(Way("bbb", True), [3.0, 3.0], [7, 7], {"what": "w"}, 3e9)

    @pytest.mark.slow
    def test_without_one_peer_nothing_is_measured(self, log):
        with pytest.raises(SystemExit, match="absent cannot run here: no such package"):
            command.measured("mlp", 2, (), (Way("aa"), Way("absent")))
        assert "turn" not in log.read_text()

    @pytest.mark.slow
    def test_a_real_worker_in_its_own_process(self):
        worker = command.started("mlp", Way(LOOP), ["--images=4", "--steps=2"])
        with closing(worker):
            assert worker.ask("warm") == {}
            assert worker.ask("turn")["ms"] > 0
            found = worker.ask("found")
        assert found["what"] == "PGD-2 Linf 0.3, 4 images, MLP 784-256-10"
        assert found["distance"] == pytest.approx(0.02, abs=1e-4)

    @pytest.mark.slow
    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
    def test_glibc_keeps_pages_of_64_mib(self):
        own, kept = (
            int(subprocess.check_output((sys.executable, "-c", TOUCHES), env=Way("", kept).environment()))
            for kept in (False, True)
        )
        assert kept < own / 3


class TestWorker:
    @pytest.mark.slow
    @pytest.mark.parametrize("provider", [LOOP, UNFROZEN, *PASSES])
    def test_it_answers_each_line(self, provider):
        worker = Worker(known(OnCPU), "mlp", provider, 3, None)
        warm, turn, found, counted = worker.answers(["warm\n", "turn\n", "found\n", "flops\n"])
        assert warm == {}
        # a forward and an input gradient of both layers, in both steps and on three images
        assert counted == {"flops": 2 * 3 * 2 * 2 * (784 * 256 + 256 * 10)}
        assert turn.keys() == {"ms", "faults"}
        assert turn["ms"] > 0
        assert found["what"] == "PGD-2 Linf 0.3, 3 images, MLP 784-256-10"
        assert ("accuracy" in found) is (provider not in PASSES)

    def test_the_rate_of_float32_is_that_of_the_faster_library(self, monkeypatch):
        taken = iter((1.0, 4.0, 2.0, 1.0, 1.0))  # a copy, torch, oneDNN, bfloat16; a copy
        monkeypatch.setattr(OnCPU, "times", lambda self, ways, least=5: {"": [next(taken)]})
        monkeypatch.setattr("bench.ceilings.onednn.available", lambda: True)
        monkeypatch.setattr("bench.ceilings.onednn.product", lambda x, weight: x)
        found = Ceilings.measured(known(OnCPU), products=True).tflops
        assert found == {"fp32": 2 * 64**3 / 2.0 / 1e9, "bf16": 2 * 64**3 / 1.0 / 1e9}
        assert Ceilings.measured(known(OnCPU)).tflops == {}


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
