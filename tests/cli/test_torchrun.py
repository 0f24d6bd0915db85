"""Commands under torchrun: one voice, and the same result as of one process."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from fastadv.cli import _torchrun, main
from fastadv.cli._interrupt import Interrupted
from fastadv.cli._shared import Machine
from fastadv.errors import InputError, LostProcessError
from fastadv.runs.files import digest, load_tensors
from fastadv.train import reports
from tests.processes import finish, serve

ROOT = Path(__file__).resolve().parents[2]
LINE = "train -m small_cnn -o width=2 --data digits -n 61 --batch-size 16 --test-samples 20 --epochs 2"


def torchrun(line: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fastadv"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*start, *line.split()], capture_output=True, text=True, env=environment, timeout=120
    )


def together(line: str) -> tuple[list[int | None], str, str]:
    """The same without the agent, which would end the second process when the first one fails."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with TemporaryDirectory() as folder:
        codes, out, err = zip(*finish(serve(command, Path(folder), 2, port, line)), strict=True)
    return list(codes), "".join(out), "".join(err)


def command(rank: int, world: int, port: int, line: str) -> None:
    """What torchrun has each process do."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    os.environ.update(MASTER_ADDR="localhost", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    sys.exit(main(line.split()))


@pytest.mark.slow
def test_two_processes_train_as_one_and_speak_once(fastadv: Callable, folder: Path) -> None:
    done = torchrun(f"{LINE} --run-dir two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights in two/model.safetensors") == 1
    assert done.stdout.count("small_cnn on digits") == 1
    assert fastadv(f"{LINE} --run-dir one").code == 0
    for ours, alone in zip(reports(folder / "two"), reports(folder / "one"), strict=True):
        assert ours.loss == pytest.approx(alone.loss, abs=1e-5)
    codes, _, err = together(f"{LINE} --run-dir two")
    assert codes == [2, 1]
    assert err.count("--run-dir two already holds a run") == 1
    # of another number of epochs, and of one process
    assert "another epochs" in fastadv(f"{LINE} --run-dir two --resume --epochs 3").err


def timeless(value: Any) -> Any:
    """Without what tells when and with what it was made."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "date", "machine", "out")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


MODEL = "-m small_cnn -o width=2 --data digits -n 61 --batch-size 16"


@pytest.mark.slow
def test_two_processes_evaluate_as_one_and_speak_once(
    fastadv: Callable, folder: Path, one_thread: None
) -> None:
    line = f"evaluate {MODEL} --norm l2 --radius 0.5 -a pgd -a gaussian_noise --radii 0,0.2 --json"
    codes, out, err = together(f"{line} --run-dir two --out two.safetensors --figure two.png")
    assert codes == [0, 0], err
    alone = fastadv(f"{line} --run-dir one --out one.safetensors")
    assert timeless(json.loads(out)) == timeless(json.loads(alone.out))
    ours, theirs = (load_tensors(f"{name}.safetensors")[0] for name in ("two", "one"))
    assert digest(ours) == digest(theirs)
    assert Path("two.png").exists()
    codes, out, err = together(f"{line} --run-dir two")
    assert (codes, out) == ([2, 1], "")
    assert err.count("--run-dir two already holds an evaluation") == 1
    # with the finished batches of both
    assert timeless(json.loads(fastadv(f"{line} --run-dir two --resume").out)) == timeless(
        json.loads(alone.out)
    )


@pytest.mark.slow
def test_two_processes_construct_as_one_and_speak_once(
    fastadv: Callable, folder: Path, one_thread: None
) -> None:
    line = f"construct random-target {MODEL} --steps 2 --shard-size 40"
    codes, out, err = together(f"{line} --out two --json")
    assert codes == [0, 0], err
    alone = fastadv(f"{line} --out one --json")
    assert timeless(json.loads(out)) == timeless(json.loads(alone.out))
    for path in Path("one").glob("shard-*"):
        assert path.read_bytes() == (Path("two") / path.name).read_bytes()
    codes, _, err = together(f"{line} --steps 3 --out two")
    assert codes == [2, 1]
    assert err.count("another steps") == 1


@pytest.mark.parametrize(
    ("error", "rank", "loud"),
    [
        (InputError("of this process"), 1, True),
        (LostProcessError("of another"), 0, True),
        (LostProcessError("of another"), 1, False),
        (Interrupted("all are stopped"), 1, False),
        (FloatingPointError("everywhere"), 1, False),
    ],
    ids=str,
)
def test_an_error_is_told_once(error: Exception, rank: int, loud: bool, monkeypatch) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(_torchrun.dist, "init_process_group", lambda backend, timeout: None)
    left = []
    monkeypatch.setattr(_torchrun.dist, "destroy_process_group", lambda: left.append(True))

    @_torchrun.together
    def command(machine: Machine) -> None:
        print("a line")
        raise error

    with pytest.raises(Exception) as raised:
        command(machine=Machine(device="cpu"))
    assert logging.root.manager.disable == logging.NOTSET
    assert left
    assert (raised.value is error) == loud
    if not loud:
        assert raised.value.exit_code == (128 + signal.SIGINT if isinstance(error, Interrupted) else 1)


KEPT = """
import weakref
import torch.distributed as dist
import fastadv.train
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
import torch._dynamo
group = weakref.ref(dist.group.WORLD)
dist.destroy_process_group()
assert group() is None
"""


@pytest.mark.slow
def test_nothing_keeps_a_group_that_was_destroyed() -> None:
    """Its threads would go on while Python ends, and now and then abort the process."""
    subprocess.run([sys.executable, "-c", KEPT], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
