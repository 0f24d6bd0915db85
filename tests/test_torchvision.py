"""torchvision imports beside a CPU-only PyTorch, whoever declares its two operators first."""

import subprocess
import sys

import pytest
import torch

DECLARE = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in {names}:
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
USE = "import fastadv\nfrom fastadv import _torchvision\nassert _torchvision.models.resnet18\n"


@pytest.mark.parametrize("names", [["nms"], ["nms", "qnms"]], ids=["one of two", "both"])
def test_operators_may_be_declared_already(names: list[str]) -> None:
    if torch.version.cuda:
        pytest.skip("this PyTorch loads torchvision's own library, which declares them itself")
    source = DECLARE.format(names=names) + USE
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
