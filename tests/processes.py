"""Several processes of one test: each calls a function of a worker's module by its name."""

import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from fastadv.errors import InputError
from tests.other_machine import MOVED, OtherMachine

ROOT = Path(__file__).resolve().parents[1]
# One server imports, which takes seconds, and each process is a copy of it; it computes nothing itself.
# before PyTorch 2.6 leaving a Gloo group can wait for a thread that waits for the GIL
NEVER_LEAVES = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["tests.processes", "fastadv.cli", "fastadv.train", "torch._dynamo"])

Started = list[tuple[BaseProcess, Path]]


def serve(do: Callable[..., None], folder: Path, world: int, *args: Any) -> Started:
    """Start `world` processes that call `do(rank, world, *args)`; what they say lies in `folder`."""
    started: Started = []
    for rank in range(world):
        said = folder / f"said-{rank}"
        given = [machine.seed for machine in MOVED], said, do, rank, world, *args
        process = SERVED.Process(target=heard, args=given, daemon=True)
        # the place of the server, which the first process starts
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
            process.start()
        started.append((process, said))
    return started


def heard(seeds: list[int], said: Path, do: Callable[..., None], *args: Any) -> None:
    """Call it with what it writes in files, on the machine that the test runs on."""
    for seed in seeds:
        OtherMachine(seed)
    for stream, end in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        with said.with_suffix(end).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    do(*args)
    if NEVER_LEAVES:
        sys.stdout.flush()
        os._exit(0)


def finish(processes: Started) -> list[tuple[int | None, str, str]]:
    """The exit code of each, and what it wrote to both streams."""
    for process, _ in processes:
        process.join(600)
        process.kill()
        process.join()
    return [
        (process.exitcode, *(said.with_suffix(end).read_text() for end in (".out", ".err")))
        for process, said in processes
    ]


def start(module: str, do: str, folder: Path, world: int) -> Started:
    """Start `world` processes that call `do(folder, rank)` of `module` in one process group."""
    return serve(work, folder, world, module, do, folder)


def go(module: str, do: str, folder: Path, world: int) -> None:
    """Start them, and have all succeed."""
    succeed(start(module, do, folder, world))


def succeed(processes: Started) -> None:
    """Wait until all have."""
    for code, out, err in finish(processes):
        assert code == 0, out + err


def program(folder: Path, module: str, *args: str) -> Started:
    """Start what `python -m module *args` does."""
    return serve(as_program, folder, 1, module, *args)


def as_program(rank: int, world: int, module: str, *args: str) -> None:
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__")


def work(rank: int, world: int, module: str, do: str, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    store = f"file://{folder / f'store-{do}-{world}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    getattr(import_module(module), do)(folder, rank)
    if not NEVER_LEAVES:
        dist.destroy_process_group()


def kill(module: str, folder: Path) -> None:
    """Have `killed` kill the second of two processes, which the first says."""
    (code, _, said), (killed, *_) = finish(start(module, "killed", folder, 2))
    assert (code, killed) == (0, -signal.SIGKILL), said
    assert "expected all 2 of this run to go on, lost one" in (folder / "error.txt").read_text()


def resume(module: str, folder: Path, world: int) -> list[bytes]:
    """Return what so many processes write that `go_on` with a copy of `folder`/run."""
    shutil.copytree(folder / "run", folder / f"run-{world}")
    import_module(module).go_on(folder) if world == 1 else go(module, "go_on", folder, world)
    return [path.read_bytes() for path in folder.glob(f"resumed-{world}-*")]


def tell(folder: Path, rank: int, wrong: Mapping[str, Callable[[], object]]) -> None:
    """Write what each of these calls is refused with."""
    said = {}
    for name, call in wrong.items():
        try:
            call()
        except InputError as error:
            said[name] = str(error)
    (folder / f"refused-{rank}.json").write_text(json.dumps(said))


class Refused:
    """What two processes told of the calls that they were refused."""

    def __init__(self, folder: Path) -> None:
        self.said = [json.loads((folder / f"refused-{rank}.json").read_text()) for rank in (0, 1)]

    def alike(self, name: str, another: str) -> None:
        """Both were not called alike, and say by what."""
        first, second = (said[name] for said in self.said)
        assert first == second
        assert "expected the same run in all 2, got process 1 with another" in first
        assert f"another {another}" in first

    def by(self, rank: int, **named: str) -> None:
        """One found by itself what is wrong, and the other repeats it."""
        for name, said in named.items():
            assert self.said[rank][name].startswith(said)
            assert self.said[1 - rank][name] == f"process {rank}: {self.said[rank][name]}"
