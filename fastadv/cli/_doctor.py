"""`fastadv doctor`: one block for an issue, and what to do about what is missing."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from fastadv._extras import EXTRAS, lacks, unfit
from fastadv._torch import onednn_has_bfloat16
from fastadv._version import __version__
from fastadv.cli._output import say
from fastadv.engine.cpu import onednn
from fastadv.engine.rewrites import REWRITES, applicable
from fastadv.ops.registration import library
from fastadv.ops.registration.library import op
from fastadv.runs import card
from fastadv.runs.files import user_cache

# what to do where it is missing
PACKAGES = (
    "torch", "numpy", "safetensors", "torchvision", "pillow", "matplotlib", "jinja2", "typer", "rich",
    "triton",
)  # fmt: skip
# the variables that change how fast a process is or how it rounds
OF_THE_CPU = ("FASTADV_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "OMP_", "KMP_", "MKL_", "ONEDNN_")
VARIABLES = (*OF_THE_CPU, "DNNL_", "ATEN_", "TORCH", "PYTORCH_", "TRITON_", "CUDA_", "CUBLAS_", "NVIDIA_")


FolderName = Annotated[Path, typer.Option(metavar="FOLDER")]


def doctor(data_dir: FolderName | None = None, verbose: bool = False) -> Iterator[Any]:
    """Show what runs fastadv here, what is missing, and what to do.

    --verbose adds every version, the build of the kernels, what runs each op, and which fast paths are taken.

    Args:
        data_dir: Folder of the sets; else FASTADV_DATA, else the user's cache.
        verbose: Show all of it, to paste into an issue.
    """
    yield (found := examine(data_dir))
    shown = {**found, "backends": _served(found["backends"])} if verbose else _summary(found)
    for name in [name for name in shown if name != "advice"]:
        say(f"{name:<12} {_words(shown[name])}")
    for line in found["advice"]:
        say(f"to do  {line}", "yellow")
    if not found["advice"]:
        say("All is well.", "green")


def _summary(found: dict[str, Any]) -> dict[str, str]:
    cpu, data, versions = found["cpu"], found["data"], found["packages"]
    return {
        "versions": f"fastadv {versions['fastadv']}, torch {versions['torch']}, Python {found['python']}",
        "kernels": f"C++ ({cpu['instruction_set']})" if cpu["extension"] else "PyTorch references",
        "GPU": ", ".join(found["gpu"]["names"]) or "none",
        "threads": f"{cpu['threads']} on {cpu['cores']} cores, {cpu['name']}",
        "data": f"digits; {', '.join(data['sets']) or 'nothing'} in {data['folder'] or 'no folder'}",
    }


def _served(backends: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    kinds = dict.fromkeys((by, device) for each in backends.values() for device, by in each.items())
    return {f"{by} on {at}:": [op for op, each in backends.items() if each[at] == by] for by, at in kinds}


def _words(told: Any) -> str:
    if isinstance(told, dict):
        return "; ".join(f"{name} {_words(part)}" for name, part in told.items()) or "none"
    if isinstance(told, list):
        return " ".join(map(str, told)) or "none"
    return ("yes" if told else "no") if isinstance(told, bool) else "none" if told is None else str(told)


def examine(data_dir: Path | None) -> dict[str, Any]:
    """Examine the machine, JSON-able; `advice` is what to do, empty where all is well."""
    packages = {"fastadv": __version__, **{name: card.version_of(name) for name in PACKAGES}}
    packages["torch"] = torch.__version__  # with its CUDA, which what pip recorded may lack
    advice = [told for package in EXTRAS if (told := lacks(package))]
    vision, data = _torchvision(), _data(data_dir, advice)
    found = {
        "packages": packages,
        "commit": card.machine()["commit"],
        "python": platform.python_version(),
        "system": platform.platform(),
        "extension": card.extension_build(),
        "cpu": _cpu(advice),
        "gpu": _gpu(packages, advice),
        "variables": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
        "backends": _asked(library.backends, {}, advice),
        "fast_paths": fast_paths(),
        "torchvision": vision,
        "data": data,
    }
    if packages["torchvision"] and not vision["imports"]:
        advice.append(unfit(vision["error"]))
    if data["folder"] and not data["sets"]:
        advice.append(
            f"no MNIST or CIFAR-10 in {data['folder']}: name their folder with --data-dir or "
            "FASTADV_DATA, or let 'train' download them"
        )
    return {**found, "advice": list(dict.fromkeys(advice))}


def _asked(ask: Any, otherwise: Any, advice: list[str]) -> Any:
    """Return what it tells; `otherwise`, and advice, where a variable has a value that it does not take."""
    try:
        return ask()
    except ValueError as error:
        advice.append(str(error))
        return otherwise


def _cpu(advice: list[str]) -> dict[str, Any]:
    extension = library.extension
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
        "flags": card.cpu_flags(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.backends.cpu.get_cpu_capability(),
        "extension": extension is not None,
        "instruction_set": _asked(extension.isa, None, advice) if extension is not None else None,
        "instruction_sets": list(extension.isas()) if extension is not None else [],
    }


def _gpu(packages: dict[str, str | None], advice: list[str]) -> dict[str, Any]:
    triton = packages["triton"]
    if torch.cuda.is_available() and triton is None:
        advice.append("the GPU runs the references: install triton")
    if not (torch.version.cuda or torch.version.hip) and shutil.which("nvidia-smi"):
        advice.append(
            f"torch {torch.__version__} is built for CPUs and leaves the NVIDIA GPU idle: "
            "install the build for CUDA that pytorch.org names"
        )
    fault = None
    if triton is not None:
        try:
            library.triton_launcher(library.CARDS["linf_step"])
        except ImportError as error:
            fault = " ".join(str(error).split())[:200]
            advice.append(f"the Triton kernels do not import, so that a GPU runs the references: {fault}")
    every = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return {
        "names": [each.name for each in every],
        "capabilities": [f"{each.major}.{each.minor}" for each in every],
        "memory_gib": [round(each.total_memory / 2**30, 1) for each in every],
        "cuda": torch.version.cuda,
        "triton": triton,
        "fault": fault,
    }


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fast_paths() -> dict[str, Any]:
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rewrites = {
        f"{device} {name}": [each.name for each in applicable(_net(device), dtype)]
        for device in devices
        for name, dtype in DTYPES.items()
    }
    there, flags = onednn.available(), card.cpu_flags()
    units = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "NEON"}
    return {
        "rewrites": rewrites,
        "not_taken": {
            each.name: f"it needs {each.needs or 'a CPU'}"
            for each in REWRITES
            if not all(each.name in rewrites[f"cpu {name}"] for name in DTYPES)
        },
        "direct_calls": op("linf_step") is not torch.ops.fastadv.linf_step.default,
        "onednn": {
            "available": there,
            "bf16": there and onednn_has_bfloat16(),
            "bf16_unit": next((unit for flag, unit in units.items() if flag in flags), None),
        },
    }


@cache
def _net(device: str) -> nn.Module:
    """Make a net with whatever a rewrite is for."""
    convolved = nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.ELU()
    return nn.Sequential(*convolved, nn.Flatten(), nn.Linear(1024, 64)).to(device).eval()


@cache
def _torchvision() -> dict[str, Any]:
    """Import it in a fresh process, as the user's own code would: fastadv itself mends what it needs."""
    command = [sys.executable, "-c", "import torchvision"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = asked.stderr.strip().splitlines() if asked.returncode else []
    return {"imports": not asked.returncode, "error": lines[-1][:200] if lines else None}


def _data(data_dir: Path | None, advice: list[str]) -> dict[str, Any]:
    named = data_dir or os.environ.get("FASTADV_DATA")
    folder = Path(named).expanduser() if named else _asked(user_cache, None, advice)
    marks = {"mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py", "cifar10 (JPEG copies)": "cifar10/test"}
    return {
        "folder": str(folder or ""),
        "named_by": "--data-dir" if data_dir else "FASTADV_DATA" if named else "default",
        "sets": [name for name, place in marks.items() if folder is not None and (folder / place).is_dir()],
    }
