"""Kernels launch with the width that is tried, or with the one that the table has for their GPU."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv.ops.registration.library import CARDS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter
CPU = torch.device("cpu")


def test_kernels_launch_with_the_width_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from fastadv.ops.triton import _common, _tuned, keep_best, linf_step
    from fastadv.ops.triton import l2_step as _l2_step

    seen: list[tuple[str, int, int, int]] = []

    def start(kernel: Any, programs: int, out: Tensor, *args: Any, **options: Any) -> None:
        seen.append((kernel.fn.__name__, programs, options["BLOCK"], options["num_warps"]))

    monkeypatch.setattr(_common, "start", start)
    x, budget = torch.zeros(3, 2000), (0.1, 0.1, 0.0, 1.0)
    row, flag = torch.zeros(3), torch.zeros(3, dtype=torch.bool)

    def all_three() -> None:
        linf_step.launch(x, x, x, x, *budget)
        _l2_step.launch(x, x, x, x, *budget)
        keep_best.launch(x, row, flag, x, row, flag)

    all_three()
    wide = _tuned.Width(256, 2)
    with ExitStack() as stack:
        for name in ("linf_step", "l2_step", "keep_best"):
            stack.enter_context(_tuned.trying(f"{name}_kernel", wide))
        all_three()
    all_three()
    default = [
        ("linf_step_kernel", 6, 1024, 4),
        ("l2_step_kernel", 3, 1024, 8),
        ("keep_best_kernel", 3, 1024, 8),
    ]
    tried = [
        ("linf_step_kernel", 24, 256, 2), ("l2_step_kernel", 3, 256, 2), ("keep_best_kernel", 3, 256, 2),
    ]  # fmt: skip
    assert seen == default + tried + default


def test_the_table_serves_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
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


@pytest.mark.parametrize("name", ["linf_step", "l2_step"])
def test_another_width_gives_the_same_result(name: str) -> None:
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("in the interpreter alone; on a GPU `make gpu` compares each width")
    from fastadv.ops.registration.library import triton_launcher
    from fastadv.ops.triton._tuned import Width, trying
    from tests.triton_interpreter import patched

    x, grad = (torch.rand(2, 300, generator=torch.Generator().manual_seed(s)) for s in range(2))
    args, results = ((x * 0.9, grad - 0.5, x, 0.3, 0.1, 0.0, 1.0), [])
    for block in (128, 512):
        out = torch.full_like(x, float("nan"))
        with patched(), trying(f"{name}_kernel", Width(block, 4)):
            triton_launcher(CARDS[name])(out, *args)
        results.append(out)
    CARDS[name].compare(results[0], results[1], args)
