"""`fastadv doctor`: one block for an issue, and what to do about what is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fastadv.cli import _options as o
from fastadv.cli._machine import examine
from fastadv.cli._output import console


def doctor(
    data_dir: Path | None = o.option(
        None, "Folder of the data sets; else FASTADV_DATA, else the user's cache."
    ),
) -> Iterator[Any]:
    """Show what to paste into an issue: versions, the build of the kernels, what runs each op, fast paths.

    It also shows threads, memory, GPU and data. It names what is missing, what is used instead, and what to
    do.
    """
    yield (found := examine(data_dir))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for name, told in _lines(found):
        grid.add_row(name, escape(told))
    screen = console()
    screen.print(grid)
    if not found["advice"]:
        screen.print("[green]All is well.[/]")
    for line in found["advice"]:
        screen.print(f"[yellow]to do[/]  {escape(line)}", soft_wrap=True)


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    packages, built = dict(found["packages"]), found["extension"]
    commit = f" (commit {found['commit']})" if found["commit"] else ""
    yield "fastadv", packages.pop("fastadv") + commit
    for name, version in packages.items():
        yield name, version or "missing"
    yield "python", f"{found['python']}, {found['system']}"
    yield "built by", _built(built) if built else "unknown" if found["cpu"]["extension"] else "-"
    yield from _hardware(found)
    yield from _ops(found["backends"])
    yield from _paths(found)
    vision, data = found["torchvision"], found["data"]
    yield "torchvision", "imports" if vision["imports"] else "does not import"
    sets = ", ".join(data["sets"]) or "only the embedded digits"
    yield "data", f"{data['folder'] or 'no folder'} ({data['named_by']}): {sets}"


def _built(built: dict[str, str]) -> str:
    made = f"{built['compiler']} as {built['standard']}, pybind11 {built['pybind11']}, {built['libc']}"
    found = f"Python {built['python']}, OpenMP {built['openmp']}"
    return f"{made}, {found}; for {built['targets']}; {built['flags']}"


def _hardware(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, gpu = found["cpu"], found["gpu"]
    yield "processor", f"{cpu['name']}, {cpu['architecture']}: {' '.join(cpu['flags']) or 'sets unknown'}"
    yield "threads", f"{cpu['threads']} on {cpu['cores']} cores"
    sets = f"{cpu['instruction_set']} of {', '.join(cpu['instruction_sets'])}"
    yield "kernels", f"{f'C++, {sets}' if cpu['extension'] else 'references only'}; torch: {cpu['torch']}"
    cards = zip(gpu["names"], gpu["capabilities"], gpu["memory_gib"], strict=True)
    told = ", ".join(f"{name} (sm {capability}, {memory} GiB)" for name, capability, memory in cards)
    made = f"with CUDA {gpu['cuda']}" if gpu["cuda"] else "without CUDA"
    yield "GPU", f"{told or 'none'}; torch {made}"
    yield "variables", " ".join(f"{name}={value}" for name, value in found["variables"].items()) or "none set"


def _ops(backends: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for device in ("cpu", "cuda"):
        served: dict[str, list[str]] = {}
        for name, serving in backends.items():
            served.setdefault(serving[device], []).append(name)
        for by, names in served.items():
            every = "every op" if by == "absent" else " ".join(names)
            yield f"ops on {device}", f"{by}: {every}"


def _paths(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say which ways a search takes here, and why not others."""
    paths = found["fast_paths"]
    for kind, names in paths["rewrites"].items():
        yield f"search, {kind}", " ".join(names) or "as given"
    for name, why in paths["not_taken"].items():
        yield f"no {name}", f"{why}; without it PyTorch's own way"
    onednn = paths["onednn"]
    unit = f"by {onednn['bf16_unit']}" if onednn["bf16_unit"] else "without instructions for it"
    yield (
        "oneDNN",
        f"bf16 {unit}" if onednn["bf16"] else "no bf16" if onednn["available"] else "missing from this torch",
    )
    direct = "past the dispatcher" if paths["direct_calls"] else "through the dispatcher, which is slower"
    yield "calls of ops", direct
