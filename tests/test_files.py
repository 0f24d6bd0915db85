"""Files that are whole or absent, and that notice damage."""

import json
import os
import stat

import pytest
import torch

from fastadv.errors import CorruptFileError
from fastadv.files import atomic_write, load_tensors, remove_parts, save_tensors, write_json, writing
from fastadv.hashes import digest

TENSORS = {
    "a": torch.arange(3),
    "b": torch.tensor([0.5, -0.0], dtype=torch.bfloat16),
    "c": torch.zeros(0, 2),
    "d": torch.tensor(7.0),
}
METADATA = {"card": json.dumps({"seed": 1}), "kind": "test"}


def same(tensors, others):
    return tensors.keys() == others.keys() and all(
        torch.equal(tensor, others[name]) and tensor.dtype == others[name].dtype
        for name, tensor in tensors.items()
    )


def test_what_is_saved_comes_back(tmp_path):
    save_tensors(tmp_path / "a", TENSORS, METADATA)
    tensors, metadata = load_tensors(tmp_path / "a")
    assert same(tensors, TENSORS)
    assert metadata == METADATA
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.slow
def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "a"
    save_tensors(path, TENSORS, METADATA)
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            tensors, metadata = load_tensors(path)
        except CorruptFileError:
            noticed += 1
        else:  # white space of the header
            assert same(tensors, TENSORS), place
            assert metadata == METADATA, place
    assert noticed > 0.95 * len(whole)


def test_digest_sees_names_types_shapes_and_bytes_and_nothing_else():
    a, b = torch.arange(6), torch.zeros(2, 3)
    for other in (
        *({"a": a}, {"a": a, "c": b}, {"a": a, "b": b, "c": torch.zeros(0)}),
        *({"a": a.int(), "b": b}, {"a": a, "b": b.view(3, 2)}, {"a": a, "b": -b}),
    ):
        assert digest(other) != digest({"a": a, "b": b})
    base = {"a": torch.arange(6), "b": torch.arange(6.0).reshape(2, 3)}
    assert digest({"b": base["b"], "a": base["a"]}) == digest(base)
    assert digest({"a": base["a"], "b": base["b"].T.contiguous().T}) == digest(base)
    assert len(digest(base)) == 64


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_users_permissions_and_the_umask_is_never_changed(tmp_path, monkeypatch, umask, mode):
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)  # a change, even for a moment, would be seen by other threads
            write_json(tmp_path / "a", 1)
            save_tensors(tmp_path / "b", TENSORS)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [mode] * 2


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:  # noqa: PT012
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    left = atomic_write(tmp_path / "a")
    left.__enter__()
    others = ["a.part", ".b.part", ".c.0123456.part", ".d", "e"]
    for name in others:
        (tmp_path / name).write_text("mine")
    assert len(os.listdir(tmp_path)) == 6
    remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_errors_of_writing_name_the_file_and_say_what_is_left(tmp_path):
    path = tmp_path / "a"
    with (
        pytest.raises(
            OSError, match=r"expected to write a \(3\.0 MiB\), got .*full.*other files are kept"
        ) as caught,
        writing(path, 3 << 20),
    ):
        raise OSError(28, "full")
    assert caught.value.errno == 28
    path.write_text("")
    with pytest.raises(OSError, match="the previous one is kept: free some space and resume"), writing(path):
        raise OSError(28, "full")
