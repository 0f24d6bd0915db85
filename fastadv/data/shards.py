"""Sharded storage: one data set as safetensors files of fixed sample ranges, with an index written last.

Shard k holds the samples `shard_range(k)` whoever writes it, so any number of processes can share the work and a killed
run loses at most the shard it was on. Each shard carries its configuration and the digest of its tensors: it can be
verified, and told from a foreign one, before there is an index.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from fastadv._files import load_tensors, read_json, save_tensors, write_json
from fastadv.errors import CorruptFileError, InputError

INDEX = "index.json"
_FORMAT = "fastadv.shards.1"
_ADVICE = "delete it and run the construction again: it rebuilds only this shard"


class Shard(NamedTuple):
    """One verified shard: its tensors, each with the samples along its first dimension, and their digest."""

    tensors: dict[str, Tensor]
    digest: str


def shard_count(total: int, shard_size: int) -> int:
    """Number of shards that `total` samples make."""
    return -(-total // shard_size)


def shard_range(k: int, total: int, shard_size: int) -> range:
    """The sample numbers of shard `k`."""
    return range(k * shard_size, min((k + 1) * shard_size, total))


def shard_path(folder: Path, k: int) -> Path:
    """Where shard `k` lies."""
    return folder / f"shard-{k:05d}.safetensors"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the names, dtypes, shapes and bytes of `tensors`; their order does not matter."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as it looks after a way through JSON, so that what was written and what is asked for can be compared."""
    result: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
    return result


def write_shard(folder: Path, k: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Shard:
    """Write shard `k` atomically and return it as read back from the disk.

    What a killed writer of the same shard left behind is removed.
    Raises OSError where the disk is full or the folder cannot be written; the shards already there are not touched.
    """
    path, sha = shard_path(folder, k), digest(tensors)
    # one entry, because safetensors writes several in no fixed order: equal shards are equal files
    metadata = {
        "shard": json.dumps(
            {"format": _FORMAT, "number": k, "config": plain(config), "digest": sha}, sort_keys=True
        )
    }
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    for leftover in folder.glob(f".{path.name}.*.part"):
        leftover.unlink(missing_ok=True)
    try:
        save_tensors(path, tensors, metadata)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path}: expected to write {size / 2**20:.1f} MiB, got '{error}'; the shards already written are kept: free some space and run again"
        ) from error
    return read_shard(folder, k, config)


def read_shard(folder: Path, k: int, config: Mapping[str, Any]) -> Shard:
    """Read and verify shard `k`.

    Raises CorruptFileError where the file is missing, truncated, damaged or no shard of this library, and InputError
    where it is a whole shard made with another configuration.
    """
    path = shard_path(folder, k)
    if not path.is_file():
        raise CorruptFileError(
            f"{path}: expected a shard, got no file; run the construction again: it rebuilds only this shard"
        )
    try:
        tensors, metadata = load_tensors(path)
    except CorruptFileError as error:
        raise CorruptFileError(
            f"{path}: expected a whole shard, got a truncated or damaged file; {_ADVICE}"
        ) from error
    about = _about(metadata)
    if about.get("format") != _FORMAT or about.get("number") != k:
        raise CorruptFileError(
            f"{path}: expected shard {k} of a constructed data set, got another file; {_ADVICE}"
        )
    sha = digest(tensors)
    if sha != about.get("digest"):
        raise CorruptFileError(
            f"{path}: expected the digest {about.get('digest')}, got {sha}: the file is damaged; {_ADVICE}"
        )
    _same_config(path, plain(config), about["config"])
    return Shard(tensors, sha)


def _about(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata["shard"])
    except (KeyError, json.JSONDecodeError):
        return {}
    return about if isinstance(about, dict) else {}


def _same_config(path: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    changed = [key for key in sorted(wanted.keys() | found.keys()) if wanted.get(key) != found.get(key)]
    if changed:
        detail = ", ".join(f"{key}: {wanted.get(key)!r}" for key in changed)
        came = ", ".join(f"{key}: {found.get(key)!r}" for key in changed)
        raise InputError(
            f"{path}: expected a shard made with {detail}, got one made with {came}; "
            "use the same arguments to resume, or another folder for another set"
        )


def write_index(
    folder: Path, card: Mapping[str, Any], config: Mapping[str, Any], shards: list[Shard]
) -> dict[str, Any]:
    """Write the index of a complete set and return it; one that already lists these very shards stays as it is."""
    listed = [
        {
            "file": shard_path(folder, k).name,
            "count": len(next(iter(shard.tensors.values()))),
            "digest": shard.digest,
        }
        for k, shard in enumerate(shards)
    ]
    path = folder / INDEX
    if path.is_file():
        old = read_index(folder)
        if old["shards"] == listed and old["config"] == plain(config):
            return old
    index = {"format": _FORMAT, "config": plain(config), "card": dict(card), "shards": listed}
    try:
        write_json(path, index)
    except OSError as error:
        raise OSError(
            f"{path}: expected to write the index, got '{error}'; all shards are kept: free some space and run again"
        ) from error
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index. CorruptFileError where there is none, or where it is not one."""
    path = folder / INDEX
    if not path.is_file():
        raise CorruptFileError(
            f"{path}: expected the index of a constructed data set, got no file; where the folder holds shards the "
            "construction did not finish: run it again with the same arguments and it resumes"
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
    return index


def read_shards(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a whole set: (tensors joined over the shards, index). CorruptFileError names the bad file."""
    index = read_index(folder)
    shards: list[dict[str, Tensor]] = []
    for k, entry in enumerate(index["shards"]):
        path = shard_path(folder, k)
        try:
            shard = read_shard(folder, k, index["config"])
        except InputError as error:
            raise CorruptFileError(
                f"{path}: expected a shard of the set that {INDEX} describes, got one of another set; {_ADVICE}"
            ) from error
        if shard.digest != entry["digest"]:
            raise CorruptFileError(
                f"{path}: expected the shard that {INDEX} lists, got another one; {_ADVICE}"
            )
        shards.append(shard.tensors)
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}, index
