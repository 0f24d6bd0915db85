"""The card of a result says which sources made it."""

import hashlib
import subprocess
from pathlib import Path

import pytest
import torch

from fastadv.card import machine
from fastadv.hashes import data_hash

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_the_commit_is_that_of_the_sources():
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout
    commit = machine()["commit"].rstrip("+")
    assert len(commit) == 12
    assert head.startswith(commit)


def test_tensors_are_hashed_by_types_shapes_and_bytes():
    made = torch.arange(24.0).reshape(4, 3, 2)
    tensors = [
        made,
        made.transpose(0, 2),
        made.bfloat16(),
        torch.tensor(3),
        torch.empty(0, 5),
        made[:, :0],
        made < 9,
    ]
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    assert data_hash(*tensors) == whole.hexdigest()[:16]
