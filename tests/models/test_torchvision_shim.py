"""torchvision is imported in one place, only when it is needed, and imports beside a CPU-only PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import fastadv.errors

PACKAGE = Path(fastadv.errors.__file__).parent


CODE = """
import sys
import torch
import fastadv.models, fastadv.data
assert "torchvision" not in sys.modules, "imported before it was needed"
import fastadv._torchvision as first
assert first.models.resnet18(num_classes=3).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
del sys.modules["fastadv._torchvision"]
import fastadv._torchvision as again
assert again.models is first.models
"""


def test_it_is_imported_late_and_works_and_an_imported_one_is_left_as_it_is() -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_else_imports_it() -> None:
    direct = ("import torchvision", "from torchvision")
    lines = [(path, line.strip()) for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines()]
    assert [(path, line) for path, line in lines if line.startswith(direct)] == []
