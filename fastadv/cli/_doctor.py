"""`fastadv doctor`: one block for an issue, and what to do about what is missing."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from fastadv import card
from fastadv._extras import EXTRAS, lacks, unfit
from fastadv._torch import has_onednn_ops, onednn_has_bfloat16
from fastadv._version import __version__
from fastadv.cli._output import say
from fastadv.ops.registration import library

PACKAGES = ("torch", "numpy", "safetensors", "pillow", "triton", *sorted(EXTRAS.keys() - {"PIL"}))
# The variables that change how fast a process is or how it rounds
OF_THE_CPU = ("FASTADV_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "KMP_", "MKL_", "ONEDNN_")
VARIABLES = (*OF_THE_CPU, "DNNL_", "ATEN_", "TORCH", "PYTORCH_", "TRITON_", "CUDA_", "CUBLAS_", "NVIDIA_")


def doctor() -> Iterator[Any]:
    """Show what runs fastadv here, what is missing, and what to do.

    --json, to paste into an issue, adds every version, the build of the kernels, and what runs each op.
    """
    state = examine()
    yield state
    cpu, versions = state["cpu"], state["packages"]
    lines = {
        "versions": f"fastadv {versions['fastadv']}, torch {versions['torch']}, Python {state['python']}",
        "kernels": f"C++ ({cpu['instruction_set']})" if cpu["extension"] else "PyTorch references",
        "GPU": ", ".join(state["gpu"]["names"]) or "none",
        "threads": f"{cpu['threads']} on {cpu['cores']} cores, {cpu['name']}",
    }
    for name, text in lines.items():
        say(f"{name:<12} {text}")
    for line in state["advice"]:
        say(f"to do  {line}", "yellow")
    if not state["advice"]:
        say("All is well.", "green")


def examine() -> dict[str, Any]:
    """Examine the machine, JSON-able; `advice` is what to do, empty where all is well."""
    packages = {"fastadv": __version__, **{name: card.version_of(name) for name in PACKAGES}}
    packages["torch"] = torch.__version__  # with its CUDA, which what pip recorded may lack
    advice = [line for package in EXTRAS if (line := lacks(package))]
    state = {
        "packages": packages,
        "commit": card.machine()["commit"],
        "python": platform.python_version(),
        "system": platform.platform(),
        "extension": card.extension_build(),
        "cpu": _cpu(advice),
        "gpu": _gpu(packages["triton"], advice),
        "variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
        "backends": _tried(library.backends, advice) or {},
    }
    if packages["torchvision"] and (fault := _torchvision_fault()):
        advice.append(unfit(fault))
    return {**state, "advice": list(dict.fromkeys(advice))}


def _tried(ask: Any, advice: list[str]) -> Any:
    """Return what it returns, and advice where a variable has a value that it does not take."""
    try:
        return ask()
    except ValueError as error:
        advice.append(str(error))
        return None


def _cpu(advice: list[str]) -> dict[str, Any]:
    extension, available = library.extension, has_onednn_ops()
    if extension is None:
        fault = library.extension_fault.removesuffix(f": {library.AGAIN}")
        advice.append(
            f"the C++ kernels {f'do not load ({fault})' if fault else 'are missing'}, so that ops run on the "
            "slower PyTorch references: install a C++20 compiler, unset FASTADV_NO_EXT, and run pip install "
            "again"
        )
    return {
        "name": card.cpu_name(),
        "architecture": platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "extension": extension is not None,
        "instruction_set": None if extension is None else _tried(extension.isa, advice),
        "onednn": available,
        "onednn_bf16": available and onednn_has_bfloat16(),
    }


def _gpu(triton: str | None, advice: list[str]) -> dict[str, Any]:
    if torch.cuda.is_available() and triton is None:
        advice.append("the GPU runs the references: install triton")
    if not (torch.version.cuda or torch.version.hip) and shutil.which("nvidia-smi"):
        advice.append(
            f"torch {torch.__version__} is built for CPUs and leaves the NVIDIA GPU idle: "
            "install the build for CUDA that pytorch.org names"
        )
    if triton is not None:
        try:
            library.triton_launcher(library.CARDS["linf_step"])
        except ImportError as error:
            fault = " ".join(str(error).split())[:200]
            advice.append(f"the Triton kernels do not import, so that a GPU runs the references: {fault}")
    cards = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return {
        "names": [one.name for one in cards],
        "capabilities": [f"{one.major}.{one.minor}" for one in cards],
        "memory_gib": [round(one.total_memory / 2**30, 1) for one in cards],
        "cuda": torch.version.cuda,
    }


@cache
def _torchvision_fault() -> str:
    """Import it in a fresh process, as the user's own code would: fastadv itself mends what it needs."""
    command = [sys.executable, "-c", "import torchvision"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no reason"])[-1][:200] if done.returncode else ""
