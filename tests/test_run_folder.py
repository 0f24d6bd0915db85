"""A run's folder: one writer at a time, no half-written files, and never two runs in one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

import fastadv
from fastadv import _run_folder
from fastadv._run_folder import RunFolder, read_report
from fastadv.errors import CorruptFileError, InputError

LEFT = ".checkpoint.safetensors.0123abcd.part"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_run_folder, "PATIENCE", 0.1)


def refused(path, **options):
    with pytest.raises(InputError, match="no other run is writing"):
        RunFolder(path, **options)


def test_a_folder_belongs_to_one_run_until_it_is_closed(tmp_path):
    with RunFolder(tmp_path / "a" / "b") as folder:
        assert folder.path.is_dir()
        refused(folder.path)
        refused(folder.path, shared=True)
        RunFolder(tmp_path / "a").close()
    RunFolder(folder.path).close()
    folder.close()
    assert os.listdir(folder.path) == []


def test_a_folder_that_nobody_holds_any_more_is_free(tmp_path):
    folder = RunFolder(tmp_path)
    refused(tmp_path)
    del folder
    RunFolder(tmp_path).close()


def test_an_error_of_the_run_frees_the_folder_even_while_it_is_held_on_to(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, RunFolder(tmp_path):
        raise ZeroDivisionError
    RunFolder(tmp_path).close()
    assert caught


def test_a_killed_run_frees_the_folder(tmp_path):
    code = (
        "import sys, time; from fastadv._run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fastadv.__file__).parents[1])}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    refused(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    RunFolder(tmp_path).close()


def test_a_forked_worker_does_not_hold_the_folder(tmp_path):
    folder = RunFolder(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        refused(tmp_path)  # the fork did not take the parent's lock away either
        folder.close()
        RunFolder(tmp_path).close()
    finally:
        os.close(write)
        os.waitpid(child, 0)


def test_several_processes_share_a_folder_and_leave_each_others_files_alone(tmp_path):
    (tmp_path / LEFT).write_text("half")
    first = RunFolder(tmp_path, shared=True)
    assert os.listdir(tmp_path) == []
    (tmp_path / LEFT).write_text("the first is writing")
    second = RunFolder(tmp_path, shared=True)
    refused(tmp_path)
    second.close()
    assert os.listdir(tmp_path) == [LEFT]
    first.close()
    assert os.listdir(tmp_path) == []


def test_half_written_files_are_removed_on_opening_and_others_stay(tmp_path):
    for name in (LEFT, ".model.safetensors.ffffffff.part", "notes.txt", ".hidden"):
        (tmp_path / name).write_text("")
    with RunFolder(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".hidden", "notes.txt"]


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/inner"):
        with pytest.raises(InputError, match=rf"out_dir: expected a folder .* got .*{place}"):
            RunFolder(tmp_path / place, name="out_dir")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="run_dir: expected a folder that can be written"):
        RunFolder(tmp_path)
    monkeypatch.undo()
    RunFolder(tmp_path).close()


def test_file_systems_without_locks_are_used_all_the_same(tmp_path, monkeypatch):
    def unsupported(handle, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with RunFolder(tmp_path), RunFolder(tmp_path, shared=True):
        pass


def parts(value=1.0):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
    return model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))


def test_a_checkpoint_is_resumed_by_its_own_run_alone(tmp_path):
    config = {"seed": 1, "threat": {"name": "L2", "radius": 0.5}, "shape": (1, 2)}
    with RunFolder(tmp_path) as folder:
        assert folder.stopped(config, resume=True) is None
        assert folder.stopped(config, resume=False) is None
        folder.save(*parts(), torch.tensor([2.0]), {"config": config, "step": 3})
        state = folder.stopped(config, resume=True)
        assert state.progress["step"] == 3
        assert state.tensors["losses"].tolist() == [2.0]
        with pytest.raises(InputError, match="resume=True"):
            folder.stopped(config, resume=False)
        for other, named in (
            (config | {"seed": 2}, r"another seed \(1 there, 2 here\)"),
            (config | {"threat": {"name": "L2", "radius": 0.6}}, "another threat"),
            (config | {"threat": {"name": "L2"}}, "another threat"),
            (config | {"more": 1}, r"another more \(None there, 1 here\)"),
            ({"seed": 1, "shape": (1, 2)}, "another threat"),
        ):
            with pytest.raises(InputError, match=named) as caught:
                folder.stopped(other, resume=True)
            assert "another folder" in str(caught.value)
            assert "another shape" not in str(caught.value)


def test_reports_are_whole_lines(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.report([{"epoch": 1}])
        folder.report({"epoch": k} for k in (1, 2))
    assert read_report(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    (tmp_path / "report.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(CorruptFileError, match="one report per line"):
        read_report(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_report(tmp_path / "absent")


def test_a_result_that_cannot_be_written_is_named(tmp_path):
    with RunFolder(tmp_path) as folder:
        with (
            pytest.raises(
                OSError, match=r"model\.safetensors: expected to write .* free some space and resume"
            ),
            folder.result("model.safetensors"),
        ):
            raise OSError(28, "No space left on device")
        with folder.result("a.txt") as path:
            path.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
