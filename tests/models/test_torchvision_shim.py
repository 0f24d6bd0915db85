"""torchvision is imported in one place, only when it is needed, and imports beside a CPU-only PyTorch."""

import sys
from pathlib import Path

import torch

import fastadv.errors
from tests.processes import serve, succeed


def imports(rank: int, world: int) -> None:
    """What a process does that has imported all of fastadv, commands too."""
    assert {"fastadv.models", "fastadv.data", "fastadv.cli"} <= sys.modules.keys()
    assert "torchvision" not in sys.modules, "imported before it was needed"
    import fastadv._torchvision as first

    assert first.models.resnet18(num_classes=3).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    del sys.modules["fastadv._torchvision"], fastadv._torchvision
    import fastadv._torchvision as again

    assert again is not first
    assert again.models is first.models


def test_it_is_imported_late_and_works_and_an_imported_one_is_left_as_it_is(tmp_path: Path) -> None:
    succeed(serve(imports, tmp_path, 1))
