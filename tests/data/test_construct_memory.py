"""A set that is built into a folder never lies in memory as a whole, whatever its size."""

import ctypes
import os
import resource
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fastadv.data import _rows, batches, construct, hold_out, load_constructed, verify_constructed
from fastadv.data._rows import MappedRows
from fastadv.threat import Linf
from tests.data.sets import random_target, toy_base, toy_model
from tests.processes import go

PIXELS = 3 * 64 * 64
FEW, MANY = 64, 1024


class Numbered(Dataset[Any]):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, k):
        return torch.full((3, 64, 64), k % 200, dtype=torch.uint8), k % 2


def peak(folder, rank):
    """Build, load, verify and read a set of as many images as the folder is called, and write the peak."""
    os.environ["FASTADV_KEEP_PAGES"] = "0"
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is let go of is given back at once
    base, model = Numbered(int(folder.name)), nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)).eval()
    _rows.KEPT = 1 << 19
    made = construct.random_target(
        model, base, threat=Linf(0.1), steps=1, out_dir=folder / "set", shard_size=32, dtype="uint8"
    )
    assert sum(len(x) for x, _, _ in batches(made, 64)) == len(base) == len(load_constructed(folder / "set"))
    for part in hold_out(made, len(base) // 4)[:2]:
        assert sum(len(x) for x, _, _ in batches(part, 8)) == len(part)
        assert len(part.data_hash) == 16
    verify_constructed(folder / "set")
    (folder / "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_set(tmp_path):
    """A held set would add 12 MB, and as much while it is joined; 44 bytes a row are held."""
    peaks = {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        go("tests.data.test_construct_memory", "peak", folder, 1)
        peaks[count] = int((folder / "peak").read_text())
    assert peaks[MANY] - peaks[FEW] < (MANY - FEW) * PIXELS / 2, peaks


def test_a_set_in_a_folder_is_that_in_memory(tmp_path, monkeypatch):
    options = {"steps": 3, "shard_size": 8, "batch_size": 5}
    held = random_target(toy_model(), toy_base(20), **options)
    mapped = random_target(toy_model(), toy_base(20), out_dir=tmp_path, **options)
    assert isinstance(mapped._rows, MappedRows)
    assert mapped.only([1, 3]).x.equal(held.only([1, 3]).x)
    monkeypatch.setattr(_rows, "KEPT", 8 * 3 * mapped.nbytes // 20)  # three rows are a piece
    assert (mapped.shape, mapped.dtype, mapped.nbytes) == (held.shape, held.dtype, held.x.nbytes)
    assert mapped.describe() | {"card": 0} == held.describe() | {"card": 0}
    for part, other in zip(hold_out(mapped, 7)[:2], hold_out(held, 7)[:2], strict=True):
        wanted = other.subset([2, 0, 2])
        for one, whole in ((part, other), (part.subset([2, 0, 2]), wanted)):
            assert isinstance(one._rows, MappedRows)
            assert (one.shape, one.nbytes, one.data_hash) == (whole.shape, whole.nbytes, whole.data_hash)
            assert one.take(torch.tensor([2, 1])).equal(whole.x[[2, 1]])
            assert isinstance(one._rows, MappedRows)
            assert one.x.equal(whole.x)
    mapped.save(tmp_path / "copy")
    assert isinstance(mapped._rows, MappedRows)  # none of these reads all
    assert mapped.x.equal(held.x)
    assert load_constructed(tmp_path / "copy").x.equal(held.x)
