"""Sharded storage on its own: ranges, digests, and what a shard or index refuses to be."""

import json

import pytest
import torch

from fastadv.data.shards import (
    read_index,
    read_shard,
    read_shards,
    shard_count,
    shard_name,
    shard_range,
    write_index,
    write_shard,
)
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.files import digest, save_tensors


@pytest.mark.parametrize(("total", "size"), [(1, 1), (10, 3), (9, 3), (5, 100)])
def test_ranges_cover_each_sample_once(total, size):
    ranges = [shard_range(k, total, size) for k in range(shard_count(total, size))]
    assert [i for ids in ranges for i in ids] == list(range(total))
    assert all(0 < len(ids) <= size for ids in ranges)


def test_configuration_is_part_of_a_shard(tmp_path):
    write_shard(tmp_path, 0, {"ids": torch.arange(3)}, {"seed": 1, "box": (0.0, 1.0)})
    read_shard(tmp_path, 0, {"box": [0.0, 1.0], "seed": 1})
    with pytest.raises(InputError, match=r"another seed \(1 there, 2 here\)"):
        read_shard(tmp_path, 0, {"box": [0.0, 1.0], "seed": 2})
    with pytest.raises(CorruptFileError, match="shard-00001"):
        read_shard(tmp_path, 1, {"seed": 1})


def three_shards(folder, **card):
    written = [write_shard(folder, k, {"ids": torch.arange(3 * k, 3 * k + 3)}, {"seed": 1}) for k in range(3)]
    return write_index(folder, {"kind": "test"} | card, {"seed": 1}, written)


def test_shards_join_in_order_and_their_index_stays(tmp_path):
    index = three_shards(tmp_path, date="first")
    tensors, read = read_shards(tmp_path)
    assert tensors["ids"].tolist() == list(range(9))
    assert read == index == read_index(tmp_path)
    assert [entry["count"] for entry in index["shards"]] == [3, 3, 3]
    assert three_shards(tmp_path, date="second")["card"]["date"] == "first"


def test_shards_that_changed_places_are_named(tmp_path):
    three_shards(tmp_path)
    first, second = (tmp_path / shard_name(k) for k in (0, 1))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    for k in (0, 1):
        with pytest.raises(CorruptFileError, match=f"expected shard {k} of a constructed data set"):
            read_shard(tmp_path, k, {"seed": 1})
    with pytest.raises(CorruptFileError, match=r"expected shard 0 .*; .*expected shard 1 ") as caught:
        read_shards(tmp_path)
    assert "shard-00002" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "seed", "says"),
    [  # of the first the number, configuration and own digest are right: the index alone knows better
        (30, 1, r"shard-00001.*expected the shard that index\.json lists"),
        (3, 2, "shard-00001.*got one of another set"),
    ],
)
def test_a_whole_shard_that_is_not_the_one_listed_is_named(tmp_path, ids, seed, says):
    three_shards(tmp_path)
    write_shard(tmp_path, 1, {"ids": torch.arange(ids, ids + 3)}, {"seed": seed})
    with pytest.raises(CorruptFileError, match=says):
        read_shards(tmp_path)


@pytest.mark.parametrize("damage", ["contents", "digest"])
def test_a_shard_whose_digest_is_not_its_own_is_damaged(tmp_path, damage):
    tensors = {"ids": torch.arange(3)}
    about = {"format": "fastadv.shards.1", "number": 0, "config": {"seed": 1}, "digest": digest(tensors)}
    if damage == "digest":
        about["digest"] = digest({"ids": torch.arange(4)})
    else:
        tensors["ids"][1] = 5
    save_tensors(tmp_path / shard_name(0), tensors, {"shard": json.dumps(about)})
    with pytest.raises(CorruptFileError, match="expected the digest"):
        read_shard(tmp_path, 0, {"seed": 1})
