"""Ctrl-C: one line, exit code 130, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# SIGINT may be ignored here, as under nohup: the child then ignores it too
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from fastadv.cli import main
sys.exit(main())
"""
RUN = [sys.executable, "-c", START]
TRAIN = [
    "train",
    "-m",
    "small_cnn",
    "-o",
    "width=4",
    "--data",
    "digits",
    "-n",
    "200",
    "--test-samples",
    "20",
    "--run-dir",
    "run",
]
ROOT = Path(__file__).resolve().parents[2]


def test_interrupted_training_says_how_to_resume(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*RUN, *TRAIN, "--epochs", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )
    reports = folder / "run" / "report.jsonl"
    deadline = time.monotonic() + 60
    while (
        not (reports.exists() and reports.read_text())
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert "kept in run" in err
    assert "--resume" in err
    assert (folder / "run" / "checkpoint.safetensors").exists()
    assert json.loads(reports.read_text().splitlines()[0])["epoch"] == 1
