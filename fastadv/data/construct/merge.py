"""The shards of one set, which processes that knew nothing of each other made, put together."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.shards import Shard, joined, read_shard, shard_config, shard_count, shard_name, write_index
from fastadv.errors import InputError
from fastadv.runs.files import copy_file
from fastadv.runs.folder import RunFolder
from fastadv.runs.identity import check_same


def merge_constructed(folders: Sequence[str | PathLike[str]], out_dir: str | PathLike[str]) -> ConstructedSet:
    """Put the shards of a set together in one folder, and write its index.

    Shards and index are those of one process, byte for byte except for date and machine on the card. Each
    shard is verified.

    Args:
        folders: where constructions with `rank` and `world_size` worked.
        out_dir: the folder to write, which may be one of `folders`.

    Returns:
        The whole `ConstructedSet`.

    Raises:
        InputError: a folder, or `out_dir`, holds no shard or one of another set; a shard is missing, or there
            twice.
        CorruptFileError: a shard is damaged.
    """
    found: dict[int, Path] = {}
    for folder in map(Path, folders):
        numbers = sorted(map(_number, folder.glob("shard-*.safetensors")))
        if not numbers:
            raise InputError(f"{folder}: expected shards of a constructed set, got none; check its name")
        for k in numbers:
            if k in found:
                at = folder / shard_name(k)
                raise InputError(f"{at}: expected each shard once, got it in {found[k]}, too; leave one out")
            found[k] = folder
    config = shard_config(found[min(found)], min(found))
    total = shard_count(config["base"]["samples"], config["shard_size"])
    shards: dict[int, Shard] = {}
    for k, folder in sorted(found.items()):
        shards[k] = read_shard(folder, k, config)
    missing = [str(k) for k in range(total) if k not in found]
    if missing:
        raise InputError(
            f"folders: expected all {total} shards, got none of {', '.join(missing[:8])}"
            f"{' ...' * (len(missing) > 8)}; run the command of what is missing, and merge again"
        )
    with RunFolder(out_dir, name="out_dir", shared=True) as opened:
        for path in opened.path.glob("shard-*.safetensors"):  # those of another set must not be lost
            check_same(path, shard_config(opened.path, _number(path)), config)
        for k, folder in found.items():
            copy_file(folder / shard_name(k), opened.path)
        ordered = [shards[k]._replace(path=opened.path / shard_name(k)) for k in range(total)]
        tensors = joined(ordered)
        index = write_index(opened.path, make_card(tensors, config), config, ordered)
    return ConstructedSet(tensors, index["card"])


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])
