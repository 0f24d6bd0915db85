"""Several processes of one test: each calls a function of a worker's module by its name."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
WORKER = "from tests.processes import work; work()"  # not -m: classes are known by their module


def start(module: str, do: str, folder: Path, world: int) -> list[subprocess.Popen[str]]:
    """Start `world` processes that call `do(folder, rank)` of `module` in one process group."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, module, do, str(folder), str(rank), str(world)],
            env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """The exit code of each, and what it said."""
    said = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, out + err) for process, (out, err) in zip(processes, said, strict=True)]


def go(module: str, do: str, folder: Path, world: int) -> None:
    """Start them, and have all succeed."""
    for code, said in finish(start(module, do, folder, world)):
        assert code == 0, said


def work() -> None:
    """What each of them does."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    module, do, folder, rank, world = sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:])
    store = f"file://{folder / f'store-{do}-{world}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    getattr(import_module(module), do)(folder, rank)
    dist.destroy_process_group()
