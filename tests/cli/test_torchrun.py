"""Commands under torchrun: one voice, and the same result as of one process."""

import json
import os
import socket
import sys

import pytest
import torch

from fastadv.cli import main
from fastadv.files import load_tensors
from fastadv.hashes import digest
from tests.cli.conftest import timeless
from tests.processes import finish, program, serve

MODEL = "-m small_cnn -o width=2 --data digits -n 61 --batch-size 16"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def together(tmp_path_factory):
    """Have two processes run a command, without the agent of torchrun, which ends one when another fails."""

    def run(line):
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        started = serve(command, tmp_path_factory.mktemp("said"), 2, port, line)
        codes, out, err = zip(*finish(started), strict=True)
        return list(codes), "".join(out), "".join(err)

    return run


def command(rank, world, port, line):
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    os.environ.update(MASTER_ADDR="localhost", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    sys.exit(main(line.split()))


@pytest.mark.slow
def test_torchrun_starts_a_command(folder):
    """The package runs as a module, too."""
    line = f"--nproc-per-node 2 -m fastadv evaluate {MODEL} --radius 0.1 -a fgsm --device cpu"
    [(code, out, err)] = finish(program(folder, "torch.distributed.run", *line.split()))
    assert code == 0, err
    assert out.count("small_cnn on 61 images of digits") == 1
    assert err.count("small_cnn has its first, untrained weights") == 1


@pytest.mark.slow
def test_two_processes_evaluate_as_one_and_speak_once(fastadv, together):
    line = f"evaluate {MODEL} --norm l2 --radius 0.5 --steps 5 -a pgd -a gaussian_noise --radii 0,0.2 --json"
    codes, out, err = together(f"{line} --run-dir two --out two.safetensors")
    assert codes == [0, 0], err
    alone = timeless(fastadv(f"{line} --run-dir one --out one.safetensors").json)
    assert timeless(json.loads(out)) == alone
    ours, theirs = (load_tensors(f"{name}.safetensors")[0] for name in ("two", "one"))
    assert digest(ours) == digest(theirs)
    codes, out, err = together(f"{line} --run-dir two")
    assert (codes, out) == ([2, 1], "")
    assert err.count("--run-dir: expected a new folder, got two with an evaluation") == 1
    assert timeless(fastadv(f"{line} --run-dir two --resume").json) == alone
