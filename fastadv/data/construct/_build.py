"""The loop that all constructions share: shard by shard, batch by batch, resumed after a kill, the card at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from fastadv._card import data_hash
from fastadv.data.construct._base import Base
from fastadv.data.construct._pixels import encode, verify
from fastadv.data.construct.constructed import ConstructedSet, describe
from fastadv.data.imageset import to_unit
from fastadv.data.shards import (
    Shard,
    plain,
    read_shard,
    shard_count,
    shard_path,
    shard_range,
    write_index,
    write_shard,
)
from fastadv.engine import Frozen
from fastadv.engine.frozen import Model
from fastadv.errors import InputError
from fastadv.threat import Threat

DTYPES = ("uint8", "float32")


class BuildOptions(TypedDict, total=False):
    """What every construction takes besides its own arguments; only `dtype` changes what the set holds.

    batch_size: samples searched at once (256).
    dtype: "uint8" or "float32" storage; by default that of the base. 8-bit images are rounded inside the budget.
    out_dir: folder to write each shard into as it is done, and to resume from after a kill; None keeps all in memory.
    shard_size: samples per shard (1024); a kill loses at most this many.
    rank, world_size: this process builds the shards k with k % world_size == rank (0 of 1), and returns the part it built
        unless it finds the folder complete; then it writes the index and returns the whole set.
    progress: called with (samples done, samples to do) after every batch.
    """

    batch_size: int
    dtype: str | None
    out_dir: str | PathLike[str] | None
    shard_size: int
    rank: int
    world_size: int
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class Search:
    """The search of one batch, ready to run."""

    labels: Tensor  # [B] the labels to store
    centre: Tensor  # [B, ...] where the search starts, and what the budget is around
    run: Callable[[], Tensor]  # the images found [B, ...]
    objective: Callable[
        [Tensor], Tensor
    ]  # images [B, ...] -> [B]: what the search lowers, on the model as given


@dataclass(frozen=True)
class Construction:
    """One construction: its name, source model and number of classes, budget, settings that make it what it is, and how a batch begins."""

    name: str
    source: Frozen
    classes: int
    threat: Threat
    settings: dict[str, Any]
    begin: Callable[
        [Tensor, Tensor, Tensor, Threat], Search
    ]  # x [B, ...], y [B], ids [B] on the CPU, budget of the batch

    def budget(self, ids: Tensor, device: torch.device) -> Threat:
        """The threat of the samples `ids` alone."""
        radius = self.threat.radius
        return (
            self.threat.with_radius(radius[ids].to(device))
            if isinstance(radius, Tensor) and radius.dim()
            else self.threat
        )


def build(
    construction: Construction,
    base: Base,
    *,
    batch_size: int = 256,
    dtype: str | None = None,
    out_dir: str | PathLike[str] | None = None,
    shard_size: int = 1024,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConstructedSet:
    """Run `construction` over the samples of `base`; BuildOptions describes the arguments."""
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("world_size", world_size)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    if not 0 <= rank < world_size:
        raise InputError(f"rank: expected a number from 0 to world_size - 1 = {world_size - 1}, got {rank}")
    dtype = dtype or ("uint8" if base.eight_bit else "float32")
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    radius = construction.threat.radius
    if isinstance(radius, Tensor) and radius.dim() and len(radius) != base.count:
        raise InputError(
            f"threat: expected one radius, or one for each of the {base.count} images of the base, got {len(radius)}"
        )
    config = plain(
        {
            "construction": construction.name,
            "name": f"{base.name}-{construction.name}",
            "note": getattr(base.dataset, "note", ""),
            "classes": base.class_names(construction.classes),
            "base": base.fingerprint(),
            "model": fingerprint(construction.source.model),
            "threat": construction.threat.describe(),
            "dtype": dtype,
            "shard_size": shard_size,
            **construction.settings,
        }
    )
    folder = None if out_dir is None else Path(out_dir)
    mine = range(rank, shard_count(base.count, shard_size), world_size)
    ranges = {k: shard_range(k, base.count, shard_size) for k in mine}
    total = sum(len(ids) for ids in ranges.values())
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    shards = {}
    for k, ids in ranges.items():
        if folder is not None and shard_path(folder, k).exists():
            shards[k] = read_shard(folder, k, config)
            tick(len(ids))
        else:
            shards[k] = _build_shard(construction, base, ids, batch_size, dtype, folder, k, config, tick)
    return _assemble(shards, folder, config, base.count)


def _build_shard(
    construction: Construction,
    base: Base,
    ids: range,
    batch_size: int,
    dtype: str,
    folder: Path | None,
    k: int,
    config: dict[str, Any],
    tick: Callable[[int], None],
) -> Shard:
    rows, centres = [], []
    for first in range(0, len(ids), batch_size):
        batch = torch.tensor(ids[first : first + batch_size])
        row, centre = _build_batch(construction, base, batch, dtype)
        rows.append(row)
        centres.append(centre)
        tick(len(batch))
    tensors = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    shard = Shard(tensors, "") if folder is None else write_shard(folder, k, tensors, config)
    numbers = shard.tensors["ids"]
    try:
        verify(
            shard.tensors["images"], torch.cat(centres), construction.budget(numbers, numbers.device), numbers
        )
    except InputError:
        if folder is not None:
            shard_path(folder, k).unlink()
        raise
    return shard


def _build_batch(
    construction: Construction, base: Base, ids: Tensor, dtype: str
) -> tuple[dict[str, Tensor], Tensor]:
    x, y = base.fetch(ids)
    threat = construction.budget(ids, x.device)
    search = construction.begin(x, y, ids, threat)
    images = encode(search.run(), search.centre, threat, dtype)
    served = to_unit(images)
    row = {
        "images": images,
        "labels": search.labels,
        "original_labels": y,
        "ids": ids,
        "predicted": construction.source.verdict(served).argmax(1),
        "objective_before": search.objective(search.centre).float(),
        "objective_after": search.objective(served).float(),
        "distance": threat.distance(served, search.centre).float(),
    }
    return {name: tensor.cpu().contiguous() for name, tensor in row.items()}, search.centre.cpu()


def _assemble(
    shards: dict[int, Shard], folder: Path | None, config: dict[str, Any], total: int
) -> ConstructedSet:
    count = shard_count(total, config["shard_size"])
    complete = folder is not None and all(shard_path(folder, k).exists() for k in range(count))
    if folder is not None and complete:
        shards = {k: shards[k] if k in shards else read_shard(folder, k, config) for k in range(count)}
    if not shards:
        raise InputError(
            f"world_size: expected at most one process for each of the {count} shards, got more; use a smaller shard_size"
        )
    tensors = {
        name: torch.cat([shard.tensors[name] for shard in shards.values()])
        for name in next(iter(shards.values())).tensors
    }
    card = describe(tensors, config)
    if folder is not None and complete:
        card = write_index(folder, card, config, list(shards.values()))["card"]
    return ConstructedSet(tensors, card)


def fingerprint(model: Model) -> dict[str, str]:
    """What tells this model from another: its class and a hash of its parameters and buffers; of a function only its name."""
    if not isinstance(model, nn.Module):
        return {"function": getattr(model, "__qualname__", type(model).__name__)}
    state = model.state_dict()
    return {"class": type(model).__name__, "hash": data_hash(*(state[name] for name in sorted(state)))}
