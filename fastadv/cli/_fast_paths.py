"""What makes a search fast on this machine: which ways are taken, and what is done without the others."""

import os
import re
import shutil
import sys
import time
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from fastadv._torch import onednn_has_bfloat16
from fastadv.engine.cpu import onednn
from fastadv.engine.precision import has_tf32
from fastadv.engine.rewrites import REWRITES, applicable
from fastadv.ops.registration.library import op
from fastadv.runs.card import cpu_flags

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fast_paths(off: Collection[str]) -> dict[str, Any]:
    """Find them, JSON-able. off: the rewrites that are switched off."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rewrites = {
        f"{device} {name}": [each.name for each in applicable(_net(device), dtype, False, off)]
        for device in devices
        for name, dtype in DTYPES.items()
    }
    return {
        "rewrites": rewrites,
        "not_taken": {
            each.name: "switched off" if each.name in off else f"it needs {each.needs or 'a CPU'}"
            for each in REWRITES
            if not all(each.name in rewrites[f"cpu {name}"] for name in DTYPES)
        },
        "direct_calls": op("linf_step") is not torch.ops.fastadv.linf_step.default,
        "onednn": _onednn(),
        "tf32": bool(torch.cuda.is_available() and has_tf32(torch.device("cuda"))),
        "compile": {device: _compiles(device) for device in devices},
        "cuda_graphs": torch.cuda.is_available(),
    }


@cache
def _net(device: str) -> nn.Module:
    """Make a net with whatever a rewrite is for."""
    convolution = nn.Conv2d(64, 64, 3, padding=1)
    layers = (convolution, nn.BatchNorm2d(64), nn.ReLU(), nn.ELU(), nn.Flatten(), nn.Linear(1024, 64))
    return nn.Sequential(*layers).to(device).eval()


def _onednn() -> dict[str, Any]:
    """Find what torch was built with, and how it computes in bfloat16."""
    version = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    there, flags = onednn.available(), cpu_flags()
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "NEON"}
    return {
        "version": version and version[1],
        "available": there,
        "bf16": there and onednn_has_bfloat16(),
        "bf16_time": _time_of_bfloat16(),
        "bf16_unit": next((unit for flag, unit in units.items() if flag in flags), None),
    }


def _time_of_bfloat16() -> float:
    """Measure a convolution and its gradient in bfloat16, in times of float32."""
    x, seconds = torch.rand(16, 64, 32, 32), dict[torch.dtype, float]()
    for dtype in DTYPES.values():
        convolution, leaf = nn.Conv2d(64, 64, 3, padding=1).to(dtype), x.to(dtype).requires_grad_()
        taken = list[float]()
        for _ in range(4):
            started = time.perf_counter()
            torch.autograd.grad(convolution(leaf).sum(), leaf)
            taken.append(time.perf_counter() - started)
        seconds[dtype] = min(taken)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def _compiles(device: str) -> str:
    """Say whether torch.compile has what it makes code with."""
    without = "; a search that is to be compiled goes on without"
    if device == "cuda":
        return "by Triton" if find_spec("triton") else f"Triton is missing{without}"
    named = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return f"by {named}" if shutil.which(named) else f"no {named} on the PATH{without}"
