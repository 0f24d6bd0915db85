"""Commands keep freed memory; the library leaves the allocator of its process alone."""

import platform
import subprocess
import sys

import pytest

from fastadv import cli
from fastadv.cli import _memory

CODE = """
import resource, torch
from fastadv.cli._memory import keep_memory
assert keep_memory()
torch.set_num_threads(1)
torch.empty(1 << 22).fill_(1.0)  # 16 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(1 << 24).fill_(1.0)  # 64 MiB, which malloc otherwise takes from the system each time
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() // (1 << 20))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_freed_memory_stays():
    # a process of its own, since what was allocated before decides which blocks malloc can reuse
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200


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
