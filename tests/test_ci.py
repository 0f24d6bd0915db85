"""What continuous integration tells of its machine."""

import runpy
from pathlib import Path

import torch

from fastadv.runs.card import cpu_name

CI = Path(__file__).parent.parent / ".ci"


def test_the_machine_is_told_before_the_tests(capsys):
    runpy.run_path(str(CI / "machine.py"))
    told = capsys.readouterr().out
    assert f"processor: {cpu_name()}" in told
    assert f"torch {torch.__version__} by {torch.backends.cpu.get_cpu_capability()}" in told
    steps = (CI / "run").read_text()
    assert steps.index("machine.py") < steps.index("make test")
