"""A data set as safetensors files of fixed sample ranges, each of which can be verified, and an index."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.data._rows import MappedRows, names_in
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, read_json, save_tensors, write_json, writing
from fastadv.hashes import digest, seal
from fastadv.runs.identity import check_same, plain

INDEX, SHARDS = "index.json", "shard-*.safetensors"
_FORMAT = "fastadv.shards.1"


class Shard(NamedTuple):
    """One verified shard; of one in a file only the tensors with one number a sample are in memory."""

    tensors: dict[str, Tensor]
    digest: str = ""
    path: Path | None = None


def shard_name(k: int) -> str:
    return f"shard-{k:05d}.safetensors"


def write_shard(folder: Path, k: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Shard:
    """Write shard `k` atomically and return it as read back from the disk; other shards are not touched."""
    path = folder / shard_name(k)
    about = {"format": _FORMAT, "number": k, "config": plain(config), "digest": digest(tensors)}
    with writing(path, sum(t.numel() * t.element_size() for t in tensors.values())):
        save_tensors(path, tensors, {"shard": json.dumps(about, sort_keys=True)})
    return read_shard(folder, k, config)


def read_shard(folder: Path, k: int, config: Mapping[str, Any]) -> Shard:
    """Read and verify shard `k`: CorruptFileError for a damaged one, InputError for one of another set."""
    path = folder / shard_name(k)
    if not path.is_file():
        raise CorruptFileError(
            f"{path}: expected a shard, got no file; run the construction again: it rebuilds only this shard"
        )
    try:
        tensors, metadata = load_tensors(path)
    except CorruptFileError as error:
        raise _corrupt(path, "a whole shard, got a truncated or damaged file") from error
    about = _about(metadata)
    if about.get("format") != _FORMAT or about.get("number") != k:
        raise _corrupt(path, f"shard {k} of a constructed data set, got another file")
    check_same(path, about["config"], config)
    # copies, so that the map of the file goes
    return Shard(
        {name: tensor.clone() for name, tensor in tensors.items() if tensor.ndim == 1}, about["digest"], path
    )


def joined(shards: Sequence[Shard]) -> dict[str, Tensor | MappedRows]:
    """Return the tensors of these shards as one; those that lie in their files are mapped."""
    tensors: dict[str, Tensor | MappedRows] = {
        name: torch.cat([shard.tensors[name] for shard in shards]) for name in shards[0].tensors
    }
    files = [shard.path for shard in shards if shard.path is not None]
    for name in names_in(files[0]) - tensors.keys() if files else ():
        tensors[name] = MappedRows(files, name)
    return tensors


def _corrupt(path: Path, what: str) -> CorruptFileError:
    again = "delete it and run the construction again: it rebuilds only this shard"
    return CorruptFileError(f"{path}: expected {what}; {again}")


def _about(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata["shard"])
    except (KeyError, json.JSONDecodeError):
        return {}
    return about if isinstance(about, dict) else {}


def write_index(
    folder: Path, card: Mapping[str, Any], config: Mapping[str, Any], shards: list[Shard]
) -> dict[str, Any]:
    """Write the index of a complete set and return it; one that already lists these shards stays as it is."""
    listed = [
        {"file": shard_name(k), "count": len(shard.tensors["ids"]), "digest": shard.digest}
        for k, shard in enumerate(shards)
    ]
    path = folder / INDEX
    if path.is_file():
        old = read_index(folder)
        if old["shards"] == listed:
            return old
    index = {"format": _FORMAT, "config": plain(config), "card": dict(card), "shards": listed}
    with writing(path):
        write_json(path, index | {"seal": seal(index)})
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index. CorruptFileError where there is none, or where it is damaged or another file."""
    path = folder / INDEX
    if not path.is_file():
        raise CorruptFileError(
            f"{path}: expected the index of a constructed data set, got no file; if the folder holds shards, "
            "the construction did not finish: run it again with the same arguments to resume it"
        )
    index = read_json(path)
    if (
        not isinstance(index, dict)
        or index.get("format") != _FORMAT
        or not {"config", "card"} <= index.keys()
        or not index.get("shards")
    ):
        raise CorruptFileError(
            f"{path}: expected the index of a constructed data set, got another file; delete it and run again"
        )
    if index.pop("seal", None) != seal(index):
        raise CorruptFileError(
            f"{path}: expected the contents that its hash names, got others: the file is damaged; "
            "delete it and run again"
        )
    return index


def read_shards(folder: Path) -> tuple[dict[str, Tensor | MappedRows], dict[str, Any]]:
    """Return (tensors of all shards joined, index), verified. CorruptFileError names all bad files."""
    index = read_index(folder)
    shards: list[Shard] = []
    bad: list[CorruptFileError] = []
    for k, entry in enumerate(index["shards"]):
        try:
            shards.append(_listed(folder, k, index["config"], entry))
        except CorruptFileError as error:
            bad.append(error)
    if bad:
        raise CorruptFileError("; ".join(map(str, bad))) from bad[0]
    return joined(shards), index


def _listed(folder: Path, k: int, config: Mapping[str, Any], entry: Mapping[str, Any]) -> Shard:
    """Return shard `k`, which is the one that the index lists."""
    path = folder / shard_name(k)
    try:
        shard = read_shard(folder, k, config)
    except InputError as error:
        raise _corrupt(path, f"a shard of the set in {INDEX}, got one of another set") from error
    if shard.digest != entry["digest"]:
        raise _corrupt(path, f"the shard that {INDEX} lists, got another one")
    return shard
