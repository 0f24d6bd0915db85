"""What is kept in a folder is not made again, and no folder is taken for that of another run."""

import json
from functools import partial

import pytest

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.files import read_json, write_json, write_text
from fastadv.runs.folder import Keeper


def test_what_is_there_is_read_and_all_else_made_once(tmp_path):
    made = []

    def make():
        made.append(len(made))
        return {"value": len(made)}

    for _ in range(2):
        with Keeper(tmp_path) as keeper:
            kept = partial(keeper.kept, make=make, write=write_json, read=read_json)
            assert kept("a.json") == {"value": 1}
            assert kept("b.json") == {"value": 2}
    assert made == [0, 1]
    (tmp_path / "b.json").unlink()
    with Keeper(tmp_path) as keeper:
        assert keeper.kept("b.json", make, write_json, read_json) == {"value": 3}


def test_a_folder_is_of_one_run(tmp_path):
    for _ in range(2):
        with Keeper(tmp_path) as keeper:
            assert keeper.identify("run.json", {"seed": 1, "shape": (2, 3)}) == {"seed": 1, "shape": [2, 3]}
    with Keeper(tmp_path) as keeper, pytest.raises(InputError, match=r"another seed \(1 there, 2 here\)"):
        keeper.identify("run.json", {"seed": 2, "shape": (2, 3)})
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
        with pytest.raises(OSError, match=said):
            keeper.kept("a.json", dict, full, json.loads)
        keeper.result("a.json", partial(write_text, text="whole"))
    assert (tmp_path / "a.json").read_text() == "whole"
