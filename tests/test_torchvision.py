"""torchvision imports late, beside a CPU-only PyTorch too, whoever declares its two operators first."""

import sys
from pathlib import Path

import pytest
import torch

import fastadv.errors
from tests.processes import serve, succeed


def declared_before(rank: int, world: int, names: list[str]) -> None:
    """What a process does that has not imported torchvision."""
    assert "torchvision" not in sys.modules
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from fastadv import _torchvision

    assert _torchvision.models.resnet18


@pytest.mark.slow
@pytest.mark.parametrize("names", [["nms"], ["nms", "qnms"]], ids=["one of two", "both"])
def test_operators_may_be_declared_already(names: list[str], tmp_path: Path) -> None:
    if torch.version.cuda:
        pytest.skip("this PyTorch loads torchvision's own library, which declares them itself")
    succeed(serve(declared_before, tmp_path, 1, names))


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


@pytest.mark.slow
def test_it_is_imported_late_and_works_and_an_imported_one_is_left_as_it_is(tmp_path: Path) -> None:
    succeed(serve(imports, tmp_path, 1))
