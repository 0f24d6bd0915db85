"""What each process of a test certifies."""

import sys
from pathlib import Path

import pytest
import torch

from fastadv.certify import smooth
from fastadv.runs.files import save_tensors
from tests.certify.nets import SIGMA, halfspace, images
from tests.processes import tell

NAMES = ("ids", "prediction", "radius", "hits", "draws")


def whole(folder: Path, rank: int = -1) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["fastadv.certify.smooth"], "PART", 4)
        result = smooth(halfspace(), images(18), SIGMA, n=300, run_dir=folder / f"run-{max(rank, -1) >= 0}")
    save_tensors(folder / f"certified-{rank}", {name: getattr(result, name) for name in NAMES})


def other_seeds(folder: Path, rank: int) -> None:
    tell(folder, rank, {"seed": lambda: smooth(halfspace(), images(18), SIGMA, n=300, seed=rank)})


def keyed(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    whole(folder, rank)
