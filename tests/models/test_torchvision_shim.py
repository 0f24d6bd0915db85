"""torchvision is imported in one place, only when it is needed, and imports beside a CPU-only PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import fastadv.errors

PACKAGE = Path(fastadv.errors.__file__).parent


def run(code: str) -> str:
    """What a fresh Python prints."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_imports_and_builds_a_network() -> None:
    assert (
        run("import torch; from fastadv._torchvision import models; print(models.resnet18(num_classes=3).eval()(torch.rand(1, 3, 32, 32)).shape[1])")
        == "3"
    )


def test_models_and_data_import_without_it() -> None:
    assert run("import sys, fastadv.models, fastadv.data; print('torchvision' in sys.modules)") == "False"


def test_an_imported_torchvision_is_left_as_it_is() -> None:
    code = "import sys, types; import fastadv._torchvision as first; del sys.modules['fastadv._torchvision']; import fastadv._torchvision as again; "
    assert run(code + "print(first.models is again.models)") == "True"


def test_nothing_else_imports_it() -> None:
    direct = ("import torchvision", "from torchvision")
    lines = [(path, line.strip()) for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines()]
    assert [(path, line) for path, line in lines if line.startswith(direct)] == []
