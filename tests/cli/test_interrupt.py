"""Ctrl-C and SIGTERM: one line, exit code 130 or 143, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastadv.cli._interrupt import stoppable

# SIGINT may be ignored here, as under nohup: the child then ignores it too
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from fastadv.cli import main
sys.exit(main())
"""
LINE = "train -m small_cnn -o width=2 --data digits -n 60 --test-samples 20 --run-dir run --epochs 1000"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_interrupted_training_says_how_to_resume(folder):
    """In a process of its own, to its very end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", START, *LINE.split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
    )  # fmt: skip
    reports, deadline = folder / "run" / "report.jsonl", time.monotonic() + 60
    while not (reports.exists() and reports.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (130, "", 1), err
    assert "kept in run" in err
    assert "--resume" in err
    assert (folder / "run" / "checkpoint.safetensors").exists()
    assert json.loads(reports.read_text().splitlines()[0])["epoch"] == 1


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def number(request):
    """A signal that stops commands, handled as in a Python process that has just begun."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield request.param
    assert {number: signal.signal(number, before[number]) for number in usual} == usual


def test_a_signal_stops_the_work(number):
    with stoppable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_stop_outside_the_work_is_one_line_too(number, fastadv, net, monkeypatch):
    monkeypatch.setattr("fastadv.cli._evaluate.parse_attacks", lambda *_: signal.raise_signal(number))
    done = fastadv(f"evaluate {net} -n 5 --radius 0.1", code=128 + number)
    assert (done.out, done.err) == ("", "fastadv: interrupted\n")


def test_signals_that_the_caller_handles_are_left_alone(number):
    heard = []
    usual = signal.signal(number, lambda number, frame: heard.append(number))
    with stoppable():
        signal.raise_signal(number)
    signal.signal(number, usual)
    assert heard == [number]
