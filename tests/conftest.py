"""Fixtures every test shares: the real data where it was prepared, and poisoned memory so that an unwritten element cannot pass by luck."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class SharedData:
    """Real data for tests: `data_dir` holds MNIST/ and cifar10/, `abs_official` the published state dicts."""

    data_dir: Path
    abs_official: Path


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> SharedData:
    """The folder FASTADV_SHARED_DATA names, or ../shared/data; unpacked once a session. Skips where it is missing."""
    packed = Path(os.environ.get("FASTADV_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (packed / "unpack.py").exists():
        pytest.skip(
            f"real data: {packed} is not there; set FASTADV_SHARED_DATA to the folder that holds unpack.py"
        )
    unpacked = ROOT / ".data"
    if not ((unpacked / "MNIST" / "raw").exists() and (unpacked / "cifar10" / "test").exists()):
        import subprocess
        import sys

        unpacked = tmp_path_factory.mktemp("data")
        subprocess.run(
            [sys.executable, str(packed / "unpack.py"), str(unpacked)], check=True, stdout=subprocess.DEVNULL
        )
    return SharedData(unpacked, packed / "abs_official")


@pytest.fixture(autouse=True)
def _poison() -> None:
    """Fresh memory holds NaN instead of whatever was there."""
    torch.use_deterministic_algorithms(True, warn_only=True)
