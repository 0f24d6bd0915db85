"""Launch widths of the kernels: the fastest that `make gpu` measured, by GPU and kernel."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

FILE = Path(__file__).with_name("tuned.json")


class Width(NamedTuple):
    """How many elements a program takes at once, and its warps of 32 threads."""

    BLOCK: int
    num_warps: int


# {GPU name: {kernel name: Width}}
TUNED: dict[str, dict[str, Width]] = {
    gpu: {kernel: Width(**width) for kernel, width in kernels.items()}
    for gpu, kernels in json.loads(FILE.read_text(encoding="utf-8")).items()
}
_tried: dict[str, Width] = {}


@cache
def _of_device(device: torch.device) -> dict[str, Width]:
    return TUNED.get(torch.cuda.get_device_name(device), {})


def width(kernel: Any, device: torch.device, default: Width) -> Width:
    """Return the width of `kernel` on `device`, or `default` if none was measured."""
    name: str = kernel.fn.__name__
    if name in _tried:
        return _tried[name]
    return _of_device(device).get(name, default) if device.type == "cuda" else default


@contextmanager
def trying(kernel: str, chosen: Width) -> Iterator[None]:
    """Launch the kernel of this name with `chosen`, ignoring what was measured."""
    _tried[kernel] = chosen
    try:
        yield
    finally:
        del _tried[kernel]
