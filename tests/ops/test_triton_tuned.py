"""Kernels launch with the width that is tried, or with the one that the table has for their GPU."""

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter
CPU = torch.device("cpu")


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
