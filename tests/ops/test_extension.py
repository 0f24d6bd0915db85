"""The extension in its process: one OpenMP runtime, torch's thread count, and any order of import."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fastadv import ops
from fastadv.ops.philox import philox
from fastadv.ops.registration.library import backends, extension

pytestmark = pytest.mark.skipif(extension is None, reason="no extension built")
NAMES = ("libgomp", "libomp", "libiomp")
RUNTIMES = f"{{line.split()[-1] for line in open('/proc/self/maps') if any(n in line for n in {NAMES})}}"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_one_openmp_runtime_and_a_child_of_fork_that_waits_for_no_thread_of_its_parent():
    code = (
        "import fastadv._C, fastadv.ops as ops, os, signal, torch\n"
        "torch.set_num_threads(2)\n"
        "x = torch.rand(64, 9999); x @ x.T; ops.l2_step(x, x, x, 1.0, 1.0)\n"
        f"print(len({RUNTIMES}))\n"
        "if not (child := os.fork()):\n"
        "    signal.alarm(60); ops.l2_step(x, x, x, 1.0, 1.0); os._exit(0)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "0"]


def test_threads_follow_torch():
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert extension.threads() == count
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit():
    x, grad = torch.rand(40, 3000), torch.randn(40, 3000)
    ids, before = torch.arange(40), torch.get_num_threads()

    def results():
        return [
            *(step(x, grad, x, 0.3, 0.2) for step in (ops.linf_step, ops.l2_step, ops.l1_step)),
            *(ops.random_start(x, ids, kind, 2.0) for kind in ("linf", "l2", "l1", "l0")),
            ops.project_l0(x + grad, x, 9.0),
            philox(ids, 999, "normal"),
        ]

    try:
        torch.set_num_threads(1)
        alone = results()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(alone, results(), strict=True))
    finally:
        torch.set_num_threads(before)


def test_threads_of_python_share_the_kernels():
    x, grad = torch.rand(40, 3000), torch.randn(40, 3000)
    expected = ops.l2_step(x, grad, x, 0.3, 0.2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ops.l2_step(x, grad, x, 0.3, 0.2), range(20)))
    assert all(torch.equal(each, expected) for each in found)


def test_backends_name_the_instruction_set():
    assert extension.isa() in extension.isas()
    assert backends()["linf_step"]["cpu"] == f"C++ ({extension.isa()})"
