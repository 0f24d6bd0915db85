"""Every kernel compiles for A100 and H100 without a GPU, spills nothing, and launches with tuned widths."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import fastadv.ops  # noqa: F401
from fastadv.ops.registration.library import CARDS

triton = pytest.importorskip("triton", "3.4", reason="Triton 3.4 or later is not installed")
ROOT = Path(__file__).resolve().parents[2]
# ops that launch kernels of others
LENT = ("latent_decode", "keep_nearest_")
KERNELS = {name: card for name, card in CARDS.items() if card.triton and name not in LENT}


def contents():
    """The hash of all that a build depends on: the ops, their samples, the compiler and the tool."""
    sources = sorted([*(ROOT / "fastadv" / "ops").rglob("*.py"), ROOT / "tools" / "aot.py"])
    versions = f"{triton.__version__} {torch.__version__} {','.join(KERNELS)}".encode()
    return hashlib.sha256(b"".join([versions, *(path.read_bytes() for path in sources)])).hexdigest()


@pytest.fixture(scope="module")
def builds():
    """Kept in build/, by the contents they were made of; one process compiles for all."""
    table = ROOT / "build" / "aot" / f"{contents()[:20]}.jsonl"
    table.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(table.parent / "lock"):
        if not table.exists():
            environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
            environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            made = table.with_suffix(".part")
            command = [sys.executable, str(ROOT / "tools" / "aot.py"), "--quick", "--out", str(made)]
            command += ["--ops", ",".join(KERNELS)]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
            for old in table.parent.glob("*.jsonl"):
                old.unlink()
            made.rename(table)
    return [json.loads(line) for line in table.read_text().splitlines()]


@pytest.mark.in_full
def test_every_kernel_is_there(builds):
    wanted = {
        (op, str(dtype).removeprefix("torch.")) for op, card in KERNELS.items() for dtype in card.dtypes
    }
    assert {(b["op"], b["dtype"]) for b in builds} == wanted
    assert {b["arch"] for b in builds} == {80, 90}
    norms = {b["variant"].split()[0] for b in builds if b["op"] == "random_start"}
    assert norms == {"linf", "l2", "l1", "l0"}


@pytest.mark.in_full
def test_nothing_spills_and_other_warps_have_room(builds):
    assert [b for b in builds if b["spill_bytes"] or b["stack_bytes"]] == []
    # 65,536 registers a multiprocessor: at 128 a thread 16 of 64 warps fit
    assert [b for b in builds if b["registers"] > 128] == []
    elementwise = [b for b in builds if b["op"] == "linf_step"]
    assert max(b["registers"] for b in elementwise) <= 80
    assert {b["load_bytes"] for b in elementwise} == {16}
    assert max(b["shared_bytes"] for b in builds) <= 16 * 1024


def test_the_table_serves_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv.ops.triton import _tuned
    from fastadv.ops.triton.l2_step import l2_step_kernel

    wide, default = _tuned.Width(512, 4), _tuned.Width(1024, 8)
    monkeypatch.setattr(_tuned, "TUNED", {"H": {"l2_step_kernel": wide}})
    names = {0: "H", 1: "A"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    _tuned._of_device.cache_clear()
    try:
        assert _tuned.width(l2_step_kernel, torch.device("cuda", 0), default) == wide
        assert _tuned.width(l2_step_kernel, torch.device("cuda", 1), default) == default
        assert _tuned.width(l2_step_kernel, torch.device("cpu"), default) == default
    finally:
        _tuned._of_device.cache_clear()
