"""`fastadv doctor`: what is installed, what serves each op, and what to do about what is missing."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from fastadv.cli import _options as o
from fastadv.cli._output import console, print_table, say
from fastadv.engine.rewrites import NAMES, switched_off
from fastadv.errors import InputError
from fastadv.ops.registration import library
from fastadv.runs.card import cpu_name

PACKAGES = {
    "fastadv": "",
    "torch": "install PyTorch >= 2.11 (pip install torch)",
    "numpy": "pip install numpy",
    "safetensors": "pip install safetensors",
    "torchvision": "pip install torchvision; without it there is no resnet18, mnist or cifar10",
    "scikit-learn": "pip install scikit-learn; without it there are no digits",
    "matplotlib": "pip install matplotlib; without it there are no figures",
    "triton": "pip install triton (Linux); without it a GPU runs the references",
}


def doctor(
    data_dir: Path | None = o.option(
        None, "Folder of the data sets; else FASTADV_DATA, else the user's cache."
    ),
) -> Iterator[Any]:
    """Show what is installed, which backend serves each op, instruction set, threads, GPU and data."""
    yield (found := examine(data_dir))
    _show(found)


def examine(data_dir: Path | None) -> dict[str, Any]:
    """Examine the machine, JSON-able; `advice` is what to do, empty where all is well."""
    packages = {name: _version(name) for name in PACKAGES}
    advice = [
        f"{name} is missing: {cure}" for name, cure in PACKAGES.items() if cure and packages[name] is None
    ]
    found: dict[str, Any] = {"packages": packages, "python": sys.version.split()[0], "advice": advice}
    extension = library.extension
    found["cpu"] = {
        "name": cpu_name(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "extension": extension is not None,
        "instruction_set": extension.isa() if extension is not None else None,
        "instruction_sets": list(extension.isas()) if extension is not None else [],
    }
    if extension is None:
        advice.append(
            "the C++ kernels are missing: install a C++20 compiler, unset FASTADV_NO_EXT, "
            "and run pip install again"
        )
    found["gpu"] = {
        "names": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "triton": packages["triton"],
    }
    if torch.cuda.is_available() and packages["triton"] is None:
        advice.append("the GPU runs the references: install triton")
    found["backends"] = library.backends()
    try:
        off = list(switched_off())
    except InputError as error:
        off = []
        advice.append(str(error))
    found["rewrites"] = {"on": [name for name in NAMES if name not in off], "off": off}
    vision, data = found["torchvision"], found["data"] = _torchvision(), _data(data_dir)
    if not vision["imports"]:
        advice.append(f"torchvision does not import ({vision['error']}): reinstall it for this PyTorch")
    if not data["sets"]:
        advice.append(
            f"no MNIST or CIFAR-10 in {data['folder']}: name their folder with --data-dir or "
            "FASTADV_DATA, or let 'train' download them"
        )
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        if package == "fastadv":  # run from the source tree
            return "not installed (source tree)"
        return None


def _torchvision() -> dict[str, Any]:
    """Check whether torchvision imports, and whether it needed the shim for its C++ operators."""
    try:
        from fastadv import _torchvision as shim
    except Exception as error:
        return {"imports": False, "shim": None, "error": " ".join(str(error).split())[:200]}
    return {"imports": True, "shim": hasattr(shim, "_operators"), "error": None}


def _data(data_dir: Path | None) -> dict[str, Any]:
    """Find which data sets are there, without opening them."""
    named = data_dir or os.environ.get("FASTADV_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastadv"
    folder = Path(named or cache).expanduser()
    marks = {
        "mnist": ("MNIST/raw",),
        "cifar10": ("cifar-10-batches-py",),
        "cifar10 (JPEG copies)": ("cifar10/train", "cifar10/test"),
    }
    sets = [name for name, places in marks.items() if all((folder / place).is_dir() for place in places)]
    return {
        "folder": str(folder),
        "exists": folder.is_dir(),
        "named_by": "--data-dir" if data_dir else "FASTADV_DATA" if named else "default",
        "sets": sets,
    }


def _show(found: dict[str, Any]) -> None:
    screen = console()
    cpu, gpu, vision, data = found["cpu"], found["gpu"], found["torchvision"], found["data"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row("python", found["python"])
    for name, installed in found["packages"].items():
        grid.add_row(name, installed or "[yellow]missing[/]")
    grid.add_row("", "")
    sets = f"; this processor has {', '.join(cpu['instruction_sets'])}" if cpu["instruction_sets"] else ""
    grid.add_row("processor", f"{cpu['name']}, {cpu['threads']} threads on {cpu['cores']} cores")
    kernels = f"C++, {cpu['instruction_set']}{sets}" if cpu["extension"] else "[yellow]references only[/]"
    grid.add_row("kernels", kernels)
    off = ", ".join(found["rewrites"]["off"])
    grid.add_row("rewrites", f"[yellow]without {off}[/] (FASTADV_WITHOUT)" if off else "all on")
    grid.add_row("GPU", ", ".join(gpu["names"]) or "none")
    shim = ", with the shim for a PyTorch without CUDA" if vision["shim"] else ""
    grid.add_row("torchvision", f"imports{shim}" if vision["imports"] else "[yellow]does not import[/]")
    known = ", ".join(data["sets"]) or "only the embedded digits"
    grid.add_row("data", f"{escape(data['folder'])} ({data['named_by']}): {known}")
    screen.print(grid)
    say("")
    served = [[name, on["cpu"], on["cuda"]] for name, on in found["backends"].items()]
    print_table("What serves each op", [["op", "cpu", "cuda"], *served])
    if not found["advice"]:
        screen.print("[green]All is well.[/]")
    for line in found["advice"]:
        screen.print(f"[yellow]to do[/]  {escape(line)}", soft_wrap=True)
