"""`make gpu` records what fails, goes on, goes on where it stopped, and says where its rows come from."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench.gpu.__main__ as gpu
from bench import stage
from bench.gpu import worker as gpu_worker
from bench.gpu.table import table
from bench.records import Row, recorded
from bench.session import MOST_ROUNDS, Case, Session, Skip
from runs import CPU, OnCPU, clock, ends, session

ROOT = Path(__file__).resolve().parents[2]


def case(name, *rows, raises=None, needs=0.0):
    def run():
        yield from rows
        if raises is not None:
            raise raises

    return Case(name, run, needs)


class TestCases:
    def test_what_fails_or_does_not_fit_is_told_and_the_next_case_runs(self, monkeypatch):
        cases = [
            case("fails", {"provider": "a"}, raises=ValueError("three\nlines\nlong")),
            case("skips", raises=Skip("no peer")),
            case("long", needs=100.0),
            case("known", raises=ValueError("again")),
            case("runs", {"provider": "b"}, needs=1.0),
        ]
        monkeypatch.setattr(stage, "cases_of", lambda name, session: cases)
        given, rows = session(seconds=50.0), []
        given.tiny = False
        assert stage.run_stage("ops", given, rows.append, {("ops", "known")})
        assert {row["case"]: (row["status"], row.get("why")) for row in rows if "status" in row} == {
            "fails": ("failed", "ValueError: three"),
            "skips": ("skipped", "no peer"),
            "long": ("skipped", "50 s of the stage's time left, 100 needed"),
            "runs": ("done", None),
        }
        assert [row["provider"] for row in rows if "provider" in row] == ["a", "b"]
        del rows[:]
        monkeypatch.setattr(given, "dead", lambda: True)  # a lost GPU ends the process
        assert not stage.run_stage("ops", given, rows.append)
        assert ends(rows) == {"fails": "failed"}

    def test_measuring_stops_at_the_deadline(self):
        given = session(seconds=-1.0)
        given.seconds = 1000.0
        assert {name: len(t) for name, t in given.times({"a": bool, "b": bool}).items()} == {"a": 1, "b": 1}
        given = session()
        assert len(given.times({"a": bool}, least=4)["a"]) == 4

    def test_a_run_goes_over_the_sets_until_it_is_long_enough(self, monkeypatch):
        seen: list[int] = []
        sets = [(1,), (2,), (3,)]
        for given in (session(), session(OnCPU)):
            assert given.rotating(seen.append, sets)[1] == 3
        monkeypatch.setattr(Session, "size", lambda self, gpu, *rest: gpu)
        monkeypatch.setattr(Session, "timed", lambda self, call: call() or 1e-3)
        run, calls = session().rotating(seen.append, sets)
        del seen[:]
        run()
        assert len(seen) == calls == 3 * MOST_ROUNDS
        assert seen[:4] == [1, 2, 3, 1]

    def test_a_way_that_fails_leaves_the_others(self):
        def broken():
            raise RuntimeError("no such kernel")

        (failed, none), (row, values) = session().compare({"eager": bool, "x": broken}, "eager")
        assert (failed, none) == ({"provider": "x", "error": "RuntimeError: no such kernel"}, [])
        assert (row["times_eager"], row["turns"]) == (1.0, len(values))

    def test_on_a_cpu_ways_take_turns_until_their_time_or_their_share_is_spent(self, monkeypatch):
        way, given = clock(monkeypatch), Session(CPU, seconds=1.0)
        ways = {"slow": way("slow", 2.0), "fast": way("fast", 0.5)}
        for each in ways.values():
            assert given.warmed(each) == {}
        assert given.times(ways, least=3) == {"slow": [2000.0] * 3, "fast": [500.0] * 3}
        # one warm call of what takes a second
        assert way.calls == ["slow", "fast", "fast"] + ["slow", "fast"] * 3
        assert len(given.times({"slow": ways["slow"], "fast": way("fast", 0.01)}, least=2)["fast"]) == 3


ORIGIN = {
    "commit", "source", "torch", "triton", "python", "cpu", "gpu", "device", "size", "run", "date", "tf32",
}  # fmt: skip
HERE = {"source": "s", "gpu": "g", "size": "full", "torch": "t", "triton": "3", "run": "now"}


class TestResume:
    @pytest.mark.parametrize(
        ("row", "again", "skipped"),
        [
            ({"status": "done", "run": "before"}, False, True),
            ({"status": "done", "run": "before"}, True, False),
            ({"status": "failed", "run": "before"}, False, False),
            ({"status": "skipped", "run": "before"}, False, False),
            ({"status": "failed", "run": "now"}, True, True),
            *(
                ({"status": "done", "run": "before", key: "other"}, False, False)
                for key in ("source", "gpu", "size", "torch", "triton")
            ),
            ({"run": "now"}, False, False),
        ],
    )
    def test_what_is_left_out(self, row, again, skipped):
        rows = [{"stage": "ops", "case": "a", **HERE, **row}]
        assert gpu_worker.finished(iter(rows), HERE, again) == ({("ops", "a")} if skipped else set())

    def test_a_line_cut_short_is_passed_over(self, tmp_path):
        (tmp_path / "gpu.jsonl").write_text('{"a": 1}\n{"b": \n{"c": 2}\n')
        assert list(recorded(tmp_path / "gpu.jsonl")) == [{"a": 1}, {"c": 2}]
        assert list(recorded(tmp_path)) == []

    def test_each_stage_has_the_budget_and_a_failure_is_the_exit_code(self, tmp_path, monkeypatch):
        seen: list[Row] = []
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setenv("PYTHONPATH", "")
        given = ["gpu.py", "abs", "ops", "--budget", "100", "--out", str(tmp_path), "--no-build"]
        monkeypatch.setattr(sys, "argv", given)
        monkeypatch.setattr(gpu, "launch", lambda stage, row: seen.append({"stage": stage, **row}))
        assert gpu.main() == 0
        assert [row["stage"] for row in seen] == ["abs", "ops"]
        assert all(90 < row["deadline"] - time.monotonic() <= 100 for row in seen)
        failed, wrong = {"status": "failed", "why": "E"}, {"provider": "fastadv fp32", "error": "E"}
        for ours, code in ((failed, 1), (wrong, 1), (wrong | {"provider": "torchattacks"}, 0)):
            row = {"stage": "abs", "case": "a"} | ours
            monkeypatch.setattr(gpu, "recorded", lambda path, row=row: [row | {"run": seen[-1]["run"]}])
            assert gpu.main() == code


WORKER = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from bench.gpu.worker import begun
from bench.records import recorded
given = json.loads(sys.argv[1])
out = Path(given["out"])
ended = {{row["case"] for row in recorded(out / "gpu.jsonl")}}
for name, fate in (("a", "die"), ("b", "hang"), ("c", "done")):
    if name in ended or (fate == "hang" and not given["hangs"]):
        continue
    begun(out).write_text(name)
    if fate == "die":
        os.kill(os.getpid(), 9)
    if fate == "hang":
        time.sleep(60)
    with (out / "gpu.jsonl").open("a") as file:
        ending = {{"stage": "ops", "case": name, "status": "done", "run": given["run"]}}
        file.write(json.dumps(ending) + "\\n")
"""


MISSING = {
    "safetensors", "torchvision", "sklearn", "matplotlib", "PIL", "typer", "rich", "pytest", "hypothesis",
    "filelock", "scipy", "torchattacks", "foolbox",
}  # fmt: skip
BARE = """
import sys, time
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {missing} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import torch
from bench.session import Session
from bench.stage import run_stage
session = Session(torch.device("cpu"), True, 0.0, time.monotonic() + 60)
for stage, only in (
    ("abs", "bank"), ("construct", "D_rand"), ("attacks", "PGD MLP"), ("correctness", "pytest"),
    ("ops", "linf_step"),
):
    rows = []
    run_stage(stage, session, rows.append, set(), only)
    assert not [row for row in rows if row.get("status") == "failed" or "error" in row], rows
    assert len(rows) > 1 or stage == "correctness", rows
assert not {missing} & sys.modules.keys()
print("ran")
"""


class TestProcesses:
    def launched(self, folder, monkeypatch, hangs):
        (folder / "bench" / "gpu").mkdir(parents=True)
        (folder / "bench" / "gpu" / "worker.py").write_text(WORKER.format(root=str(ROOT)))
        monkeypatch.setattr(gpu, "ROOT", folder)
        monkeypatch.setattr(gpu, "GRACE", 0)
        given = {"out": str(folder), "run": "now", "commit": "", "hangs": hangs}
        begun = gpu_worker.begun(folder)

        class UntilHanging(subprocess.Popen[bytes]):
            """Its time is used up when it hangs: how long it takes to start is the machine's."""

            def wait(self, timeout=None):
                while timeout and self.poll() is None and not (begun.exists() and begun.read_text() == "b"):
                    time.sleep(0.01)
                return super().wait(timeout and 0)

        monkeypatch.setattr(subprocess, "Popen", UntilHanging)
        gpu.launch("ops", given | {"deadline": time.monotonic() + 600})
        return list(recorded(folder / "gpu.jsonl"))

    @pytest.mark.slow
    @pytest.mark.parametrize("hangs", [False, True])
    def test_a_process_that_dies_is_followed_by_another_and_one_that_hangs_is_stopped(
        self, tmp_path, monkeypatch, hangs
    ):
        first, second = self.launched(tmp_path, monkeypatch, hangs)
        assert (first["case"], first["why"]) == ("a", f"its process ended with code {-signal.SIGKILL}")
        assert (second["case"], second["status"]) == (("b", "failed") if hangs else ("c", "done"))
        assert second.get("why", "").startswith("stopped 0 s after" if hangs else "")

    @pytest.mark.slow
    def test_the_command_writes_rows_with_their_origin(self, tmp_path, monkeypatch, capsys):
        for name, value in {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}.items():
            monkeypatch.setenv(name, value)
        options = ["--only", "nothing", "--no-build", "--tiny", "--out", str(tmp_path), "--commit", "abc"]
        monkeypatch.setattr(sys, "argv", ["gpu.py", "training", *options])
        assert gpu.main() == 0
        assert capsys.readouterr().out.rstrip().endswith("training: 1 done, 0 failed, 0 skipped")
        rows = list(recorded(tmp_path / "gpu.jsonl"))
        assert {row["case"] for row in rows} == {"ceilings"}
        assert all(row.keys() >= ORIGIN for row in rows)
        assert {row["size"] for row in rows} == {"tiny"}
        monkeypatch.setattr(sys, "argv", ["gpu.py", "opps"])
        with pytest.raises(SystemExit, match="2"):
            gpu.main()
        assert "got opps" in capsys.readouterr().err

    @pytest.mark.slow
    def test_torch_numpy_and_triton_are_enough(self):
        code = BARE.format(missing=MISSING)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert run.stdout.rstrip().endswith("ran"), run.stdout[-2000:] + run.stderr[-2000:]


def test_table():
    rows = [
        {"stage": "ops", "case": "linf", "provider": "fastadv", "p50_ms": 1.23456, "p20_ms": 1.0,
         "p80_ms": 2.0, "share_of_copy": 0.85, "times_eager": 3.5, "peak_mib": 12.0, "gb_per_s": 4000.0},
        {"stage": "ops", "case": "linf", "status": "done", "seconds": 1.0},
        {"stage": "ops", "case": "l2", "status": "failed", "why": "E: no"},
        {"stage": "abs", "case": "bank", "status": "skipped", "why": "late"},
    ]  # fmt: skip
    lines = table(rows).splitlines()
    assert lines[1] == "== ops"
    assert " ".join(lines[3].split()) == "linf fastadv 1.235 1 2 0.85 3.5 12 gb_per_s 4000.0"
    assert lines[4:6] == ["ops: 1 done, 1 failed, 0 skipped", "  failed: l2: E: no"]
    assert lines[-2:] == ["abs: 0 done, 0 failed, 1 skipped", "  skipped: bank: late"]
    many = [{**rows[0], "provider": "eager"}] * 101
    assert not [line for line in table([*many, rows[0]]).splitlines() if " eager " in line]
