"""Shards that processes made apart become one set, each once and all of them; anything else is refused."""

from pathlib import Path

import pytest
import torch

from fastadv.data import load_constructed
from fastadv.data.construct import merge_constructed
from fastadv.errors import InputError

from .sets import random_target, toy_base, toy_model

TWICE = r"shard-0000\d.safetensors: expected each shard once, got it in .*, too; leave one out"
REFUSED = {
    "0 1 0": TWICE,
    "1 whole": TWICE,
    "0": "expected all 4 shards, got none of 1, 3; run the command of what is missing",
    "0 other": "another seed",
    "0 nowhere 1": "nowhere: expected shards of a constructed set, got none",
}


def test_shards_are_the_set_of_one_process_and_less_or_more_is_refused(tmp_path: Path) -> None:
    half = {"world_size": 2, "rank": 1}
    for name, more in {"whole": {}, "0": half | {"rank": 0}, "1": half, "other": half | {"seed": 1}}.items():
        random_target(toy_model(), toy_base(20), out_dir=tmp_path / name, steps=1, shard_size=6, **more)
    for folders, said in REFUSED.items():
        with pytest.raises(InputError, match=said):
            merge_constructed([tmp_path / name for name in folders.split()], tmp_path / "out")
    with pytest.raises(InputError, match="another seed"):
        merge_constructed([tmp_path / "0", tmp_path / "1"], tmp_path / "other")
    assert not (tmp_path / "out").exists()
    merged, one = merge_constructed([tmp_path / "1", tmp_path / "0"], tmp_path / "out"), tmp_path / "whole"
    assert torch.equal(merged.x, load_constructed(one).x)
    assert merged.ids.tolist() == list(range(20))
