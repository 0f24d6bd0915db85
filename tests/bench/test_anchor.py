"""PGD against the best of all peers: processes in turns, what their times say, and the tables of them."""

import json
import os
import platform
import subprocess
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from bench import base, run
from bench.anchor import __main__ as command
from bench.anchor.rows import Taken, rows
from bench.anchor.ways import FROZEN, KEPT, OURS, PASSES, PEERS, UNFROZEN, WAYS, Way
from bench.anchor.worker import Worker
from bench.ceilings import Ceilings
from bench.lines import Answering
from bench.page import anchor, machines
from bench.page.entries import PGD
from bench.providers import LOOP, PROVIDERS
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
    def test_a_process_that_dies_is_told(self):
        dead = Answering((sys.executable, "-c", "pass"), os.environ)
        with pytest.raises(SystemExit, match="stopped"):
            dead.ask("warm")

    @pytest.mark.slow
    def test_a_real_worker_in_its_own_process(self):
        worker = command.started("mlp", Way(LOOP), ["--images=4", "--steps=2"])
        with closing(worker):
            assert worker.ask("warm") == {}
            assert worker.ask("turn")["ms"] > 0
            found = worker.ask("found")
        assert found["what"] == "PGD-2 Linf 0.3, 4 images, MLP 784-256-10"
        assert found["distance"] == pytest.approx(0.02, abs=1e-4)

    def test_pages_are_as_the_way_says_whatever_the_caller_has(self, monkeypatch):
        for name in (*KEPT, "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"):
            monkeypatch.setenv(name, "1")
        own, kept = (Way("a", kept).environment() for kept in (False, True))
        assert {name: value for name, value in own.items() if name.startswith("MALLOC")} == {
            "MALLOC_TOP_PAD_": "1"
        }
        assert kept == own | dict.fromkeys(KEPT, str(2**32))

    @pytest.mark.slow
    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
    def test_glibc_keeps_pages_of_64_mib(self):
        own, kept = (
            int(subprocess.check_output((sys.executable, "-c", TOUCHES), env=Way("", kept).environment()))
            for kept in (False, True)
        )
        assert kept < own / 3

    def test_the_peers_run_both_ways_and_fastadv_as_users_have_it(self):
        assert {Way(name, kept) for name in PEERS for kept in (False, True)} <= set(WAYS)
        assert {Way(name) for name in (*OURS, *PASSES)} <= set(WAYS)


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

    def test_what_cannot_run_says_why(self, monkeypatch):
        def absent(given):
            raise ImportError("no such package")

        monkeypatch.setitem(PROVIDERS, LOOP, absent)
        assert Worker(known(OnCPU), "mlp", LOOP, 3, 1).warm() == {"error": "ImportError: no such package"}

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


class TestCommand:
    @pytest.mark.parametrize(
        ("told", "changes", "want"), [("a", b"", "a"), ("a+", b"", "a"), ("a+", b" M fastadv/rng.py", "a+")]
    )
    def test_results_and_pages_are_no_change_of_the_code(self, monkeypatch, told, changes, want):
        monkeypatch.setattr(base, "git", lambda *args: changes)
        assert command.commit(told) == want

    def test_rows_say_where_they_come_from(self, tmp_path, monkeypatch):
        taken = [Taken(way, ms, [1, 1, 1], {"what": "w"}) for way, ms in TestRows.TIMES.items()]
        asked: list[tuple[str, int, list[str]]] = []
        monkeypatch.setattr(command, "measured", lambda *given: asked.append(given) or taken)
        ceilings = Ceilings(1, 30.0, {"fp32": 10.0, "bf16": 24.0})
        monkeypatch.setattr(Ceilings, "measured", lambda session, products: ceilings)
        out = tmp_path / "rows.jsonl"
        arguments = ["--net", "mlp", "cnn", "--turns", "3", "--data-dir", str(tmp_path), "--out", str(out)]
        monkeypatch.setattr("sys.argv", ["bench.anchor", *arguments])
        command.main()
        assert asked == [(net, 3, [f"--data-dir={tmp_path}"]) for net in ("mlp", "cnn")]
        written = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(written) == 2 * len(taken)
        assert all({"commit", "torch", "date", "device", "cpu", "threads"} <= row.keys() for row in written)

    def test_it_is_a_part_of_the_benchmark(self, monkeypatch):
        called: list[list[str]] = []
        ended = Namespace(returncode=3)
        monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append(command) or ended)
        places = {"data_dir": Path("a"), "weights": None, "out": None}
        assert run.anchor(Namespace(only=["ops"], **places)) == 0
        assert run.anchor(Namespace(only=["anchor"], **places)) == 3
        assert [each[1:] for each in called] == [["-m", "bench.anchor", "--data-dir", "a"]]


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

    def test_the_nets_of_one_commit_may_come_from_several_runs(self):
        rows, later = stored(day=1), stored(day=2)
        cut = len(WAYS)
        (machine,) = machines.machines([*rows[:cut], *later[cut:]])
        assert list(machine) == list(PGD)
        assert machines.machines(rows[:cut]) == []


class TestPage:
    machine = machines.machines(stored(adv_lib=1000.0))[0]

    def test_a_goal_is_met_or_the_limit_is_told(self):
        line = next(line for line in anchor.goals(self.machine) if NET in line)
        assert line == (
            f"| {NET} | adv-lib: 1.0 s (900 ms to 1.5 s) | 1.20 (1.10 to 1.30), met "
            "| 1.20 (1.10 to 1.30), **not met**; limit 1.30 | 0.90 / 0.90 | 0.50 / 0.25 |"
        )

    def test_every_process_has_a_line_with_its_faults(self):
        head, _, *lines = anchor.processes(self.machine)
        assert head == f"| process | {' | '.join(PGD)} |"
        assert len(lines) == len(WAYS)
        assert lines[3].startswith("| adv-lib, pages kept | 1.0 s (901 ms to 1.5 s); 1.5 |")

    def test_the_page_says_what_the_machine_reached(self):
        text = anchor.section([self.machine, *machines.machines(stored(cpu="B"))])
        assert text.count("\n## ") == 1
        assert "\nA, 2 threads, PyTorch 2, 2026-01-01, commit a. Robust accuracy at the end: 0.0%." in text
        assert "\nB, 2 threads" in text
        assert "200 GFLOP/s in float32 and 500 in bfloat16, a copy 20 GB/s" in text

    def test_readme_names_the_best_and_has_the_fastest_in_bold(self):
        lines = [line for line in anchor.summary(self.machine).splitlines() if line.startswith("|")]
        assert len(lines) == 6
        slow, fast = "2.0 s (1.8 to 3.0 s)", "1.0 s (900 ms to 1.5 s)"
        assert lines[2] == (
            f"| {NET} | **{fast}, adv-lib** | {slow}, 1.20 times as fast | {slow}, 1.20 times as fast |"
        )
        (won,) = machines.machines(stored(**{FROZEN[0]: 500.0}))
        assert "| **500 ms (450 to 750 ms), 1.20 times as fast** |" in anchor.summary(won)
