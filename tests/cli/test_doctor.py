"""`fastadv doctor` tells what is true of the machine, and what to do where something is wrong."""

import os
import pwd
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import fastadv as fa
from fastadv.cli import _doctor
from fastadv.ops.registration import library

ROOT = Path(__file__).parents[2]


@pytest.fixture
def examined(fastadv):
    return lambda: fastadv("doctor --json").json


def advice(state, word):
    (line,) = [line for line in state["advice"] if word in line]
    return line


@pytest.mark.slow
def test_the_block_and_the_json_say_the_same(fastadv, examined):
    state, out = examined(), fastadv("doctor").out
    short, said = out.splitlines(), " ".join(out.split())
    names = [line.split()[0] for line in short if not line.startswith(" ")]
    assert names == ["versions", "kernels", "GPU", "threads", *["to"] * len(state["advice"])]
    assert f"torch {torch.__version__}" in short[0]
    assert state["packages"]["torch"] == torch.__version__
    assert state["packages"]["fastadv"] == fa.__version__
    assert state["backends"] == fa.backends()
    assert state["cpu"]["threads"] == torch.get_num_threads()
    for line in state["advice"]:
        assert f"to do {' '.join(line.split())}" in said


@pytest.mark.slow
def test_wrong_values_of_variables_are_told(examined, monkeypatch):
    fault = ValueError("FASTADV_ISA: expected one of baseline on this processor, got avx7")
    monkeypatch.setattr(library, "extension", Mock(isa=Mock(side_effect=fault), linf_step=None))
    state = examined()
    assert "got avx7" in advice(state, "FASTADV_ISA")
    assert state["cpu"]["instruction_set"] is None


@pytest.mark.slow
def test_a_user_without_a_home(refused, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError))
    refused(
        "evaluate -m small_cnn --data mnist --radius 0.1", "expected a home folder for the cache, got none"
    )


FAULT = "_C.so is of another Python than this"


@pytest.mark.parametrize(
    ("fault", "says"), [("", "are missing, so"), (f"{FAULT}: install fastadv again", f"not load ({FAULT})")]
)
def test_why_the_kernels_are_not_there_is_told(fault, says, monkeypatch):
    monkeypatch.setattr(library, "extension", None)
    monkeypatch.setattr(library, "extension_fault", fault)
    assert not _doctor._cpu(advice := [])["extension"]
    assert says in advice[0]
    assert advice[0].endswith("run pip install again")


@pytest.mark.slow
def test_torchvision_is_tried_as_the_users_own_code_imports_it(fastadv, refused, folder, monkeypatch):
    (folder / "stub" / "torchvision").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder / "stub"))
    fails = "raise RuntimeError('operator torchvision::nms does not exist')"
    for source, imports in (("", True), (fails, False)):
        (folder / "stub" / "torchvision" / "__init__.py").write_text(source)
        _doctor._torchvision_fault.cache_clear()
        assert bool(_doctor._torchvision_fault()) is not imports
    cure = "operator torchvision::nms does not exist): it is built for another torch; install both with one"
    assert cure in advice(fastadv("doctor --json").json, "pytorch.org")
    assert f"to do  torchvision does not import (RuntimeError: {cure}" in fastadv("doctor").out
    _doctor._torchvision_fault.cache_clear()
    (folder / "mynet.py").write_text(source)
    refused("evaluate -m mynet:resnet18 --data digits --radius 0.1", cure, code=1)


BARE = """
import os, sys
sys.path[:0] = [{stub!r}, {root!r}]

def refuse(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.mkdir", "os.rename")) and str(args[0]).startswith({package!r}):
        raise OSError(30, "Read-only file system", args[0])

sys.addaudithook(refuse)
import torch, fastadv as fa
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
fa.attacks.pgd(net, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), fa.Linf(0.1), steps=2, step_size=0.1)
from fastadv.cli import main
sys.argv = "fastadv evaluate -m softmax --data digits -n 5 --radius 0.1".split()
assert main() == 0
sys.argv = ["fastadv", "doctor"]
sys.exit(main())
"""


@pytest.mark.slow
def test_a_bare_environment_gets_sentences(tmp_path):
    """No HOME, a terminal of ASCII alone, a package that cannot be written, a Triton that does not fit."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("__version__ = '1.0.0'")
    (tmp_path / "triton-1.0.0.dist-info").mkdir()
    (tmp_path / "triton-1.0.0.dist-info" / "METADATA").write_text("Name: triton\nVersion: 1.0.0\n")
    code = BARE.format(stub=str(tmp_path), root=str(ROOT), package=str(ROOT / "fastadv"))
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**bare, "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    assert "to do  the Triton kernels do not import, so that a GPU runs the references" in done.stdout
    assert "L\\u221e" in done.stdout
    assert "Traceback" not in done.stderr
