"""Kernels launch with the width that is tried, or with the one that the table has for their GPU."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter
CPU = torch.device("cpu")


def test_kernels_launch_with_the_width_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", "3.4")
    from fastadv.ops.triton import _common, _tuned, l2_step, linf_step

    seen: list[tuple[str, int, int, int]] = []

    def start(kernel: Any, programs: int, out: Tensor, *args: Any, **options: Any) -> None:
        seen.append((kernel.fn.__name__, programs, options["BLOCK"], options["num_warps"]))

    monkeypatch.setattr(_common, "start", start)
    args = [torch.zeros(3, 2000)] * 4, 0.1, 0.1, 0.0, 1.0
    for chosen in (None, _tuned.Width(256, 2), None):
        with ExitStack() as stack:
            for module in (linf_step, l2_step):
                name = module.__name__.rsplit(".")[-1]
                if chosen:
                    stack.enter_context(_tuned.trying(f"{name}_kernel", chosen))
                module.launch(*args[0], *args[1:])
    default = [("linf_step_kernel", 6, 1024, 4), ("l2_step_kernel", 3, 1024, 8)]
    tried = [("linf_step_kernel", 24, 256, 2), ("l2_step_kernel", 3, 256, 2)]
    assert seen == default + tried + default


def test_the_table_serves_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", "3.4")
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
        assert _tuned.width(l2_step_kernel, CPU, default) == default
    finally:
        _tuned._of_device.cache_clear()
