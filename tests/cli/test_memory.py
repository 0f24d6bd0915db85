"""Commands keep freed memory; the library leaves the allocator of its process alone."""

import platform
import resource
import sys

import pytest
import torch

from fastadv import cli
from fastadv.cli import _memory
from tests.processes import finish, serve


def faults(rank, world):
    """Print how many MiB of pages fault in twenty tensors of 64 MiB, one after the other."""
    assert _memory.keep_memory()
    torch.set_num_threads(1)
    torch.empty(1 << 22).fill_(1.0)  # 16 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(1 << 24).fill_(1.0)  # which malloc otherwise takes from the system each time
    faulted = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(faulted * resource.getpagesize() // (1 << 20))


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_freed_memory_stays(tmp_path):
    [(code, out, err)] = finish(serve(faults, tmp_path, 1))
    assert code == 0, err
    assert int(out) < 200


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(_memory.ctypes, "CDLL", lambda name: object())
    assert not _memory.keep_memory()


def test_the_command_and_not_the_library_asks_for_it(monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr(cli, "keep_memory", lambda: asked.append(True))
    cli.main(["--version"])
    assert asked == []
    monkeypatch.setattr(sys, "argv", ["fastadv", "--version"])
    cli.main()
    assert asked == [True]
