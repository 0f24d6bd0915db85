"""torchvision imports beside a CPU-only PyTorch, whoever declares its two operators first."""

import sys
from pathlib import Path

import pytest
import torch

from tests.processes import serve, succeed


def declared_before(rank: int, world: int, names: list[str]) -> None:
    """What a process does that has not imported torchvision."""
    assert "torchvision" not in sys.modules
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from fastadv import _torchvision

    assert _torchvision.models.resnet18


@pytest.mark.parametrize("names", [["nms"], ["nms", "qnms"]], ids=["one of two", "both"])
def test_operators_may_be_declared_already(names: list[str], tmp_path: Path) -> None:
    if torch.version.cuda:
        pytest.skip("this PyTorch loads torchvision's own library, which declares them itself")
    succeed(serve(declared_before, tmp_path, 1, names))
