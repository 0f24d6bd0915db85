"""Sharded storage on its own: ranges, digests, and what a shard or index refuses to be."""

import pytest
import torch

from fastadv.data.shards import (
    read_index,
    read_shard,
    read_shards,
    shard_count,
    shard_range,
    write_index,
    write_shard,
)
from fastadv.errors import CorruptFileError, InputError


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
