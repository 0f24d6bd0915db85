"""Print the machine that the tests run on: results may differ in their last bits on another."""

import os
import platform
from pathlib import Path

import torch

from fastadv.ops.registration import library
from fastadv.runs.card import cpu_name

SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve")


def flags() -> list[str]:
    """The instruction sets of the processor that change how libraries sum, where the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return []
    return [name for name in SETS if name in told]


kernels = "references only" if library.extension is None else library.extension.isa()
print(f"processor: {cpu_name()}, {platform.machine()}: {' '.join(flags()) or 'instruction sets unknown'}")
print(f"cores: {os.cpu_count()}, threads of a process: {torch.get_num_threads()}")
print(f"sums: torch {torch.__version__} by {torch.backends.cpu.get_cpu_capability()}, fastadv by {kernels}")
print(f"python {platform.python_version()}, {platform.platform()}", flush=True)
