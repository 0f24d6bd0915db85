"""A run's folder: one writer at a time, no half-written files, and never two runs in one."""

import os
import signal

import pytest

from fastadv.errors import InputError
from fastadv.runs import folder
from fastadv.runs.folder import RunFolder

LEFT = ".checkpoint.safetensors.0123abcd.part"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)


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


def test_an_error_of_the_run_frees_the_folder_even_while_it_is_held_on_to(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, RunFolder(tmp_path):
        raise ZeroDivisionError
    RunFolder(tmp_path).close()
    assert caught


def test_a_killed_run_frees_the_folder(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held = RunFolder(tmp_path)
            os.write(write, str(held.path).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1000).decode() == str(tmp_path)
    refused(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    RunFolder(tmp_path).close()


@pytest.mark.slow
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
