"""A run's folder: one writer at a time, no half-written files, and never two runs in one."""

import os
import signal
from functools import partial

import pytest
import torch

from fastadv.errors import CorruptFileError, InputError
from fastadv.files import write_text
from fastadv.runs import folder
from fastadv.runs.folder import RunFolder
from fastadv.runs.identity import FORMAT
from fastadv.runs.work import Keeper
from tests.refusals import refuses

LEFT = ".checkpoint.safetensors.0123abcd.part"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(folder, "PATIENCE", 0.1)


def refused(path):
    refuses("no other run is writing", RunFolder, path)


def test_a_folder_belongs_to_one_run_until_it_is_closed(tmp_path):
    with RunFolder(tmp_path / "a" / "b") as folder:
        assert folder.path.is_dir()
        refused(folder.path)
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


def test_half_written_files_of_a_run_that_ended_are_removed(tmp_path):
    (tmp_path / LEFT).write_text("half")
    with RunFolder(tmp_path):
        assert os.listdir(tmp_path) == []
        (tmp_path / LEFT).write_text("the run is writing")
        refused(tmp_path)
        assert os.listdir(tmp_path) == [LEFT]
    RunFolder(tmp_path).close()
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/inner"):
        refuses(rf"out_dir: expected a folder .* got .*{place}", RunFolder, tmp_path / place, name="out_dir")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refuses("run_dir: expected a folder that can be written", RunFolder, tmp_path)
    monkeypatch.undo()
    RunFolder(tmp_path).close()


def test_a_part_is_there_once_it_is_kept_and_of_its_seal_alone(tmp_path):
    value, about = torch.tensor([1]), {"said": [1, None]}
    for place in (None, tmp_path):
        with Keeper(place) as keeper:
            assert keeper.part("a.safetensors", "a") is None
            keeper.keep("a.safetensors", "a", {"value": value}, about)
            kept = keeper.part("a.safetensors", "a")
            assert kept == (place and ({"value": value}, about))
            assert keeper.part("a.safetensors", "b") is None


def test_a_folder_is_of_one_run(tmp_path):
    for _ in range(2):
        with Keeper(tmp_path) as keeper:
            assert keeper.identify("run.json", {"seed": 1, "shape": (2, 3)}) == {"seed": 1, "shape": [2, 3]}
    with Keeper(tmp_path) as keeper, pytest.raises(InputError, match=r"another seed \(1 there, 2 here\)"):
        keeper.identify("run.json", {"seed": 2, "shape": (2, 3)})
    with Keeper(tmp_path) as keeper, pytest.raises(InputError, match=r"another version; finish it with"):
        keeper.identify("run.json", {**FORMAT, "seed": 1})
    (tmp_path / "run.json").write_text("{")
    with Keeper(tmp_path) as keeper, pytest.raises(CorruptFileError, match=r"run\.json"):
        keeper.identify("run.json", {"seed": 1})


def test_a_result_that_cannot_be_written_is_named(tmp_path):
    def full(path, value=None):
        raise OSError(28, "No space left on device")

    said = r"a\.json: expected to write .* free some space and resume"
    with Keeper(tmp_path) as keeper:
        with pytest.raises(OSError, match=said):
            keeper.result("a.json", full)
        keeper.result("a.json", partial(write_text, text="whole"))
    assert (tmp_path / "a.json").read_text() == "whole"
