"""The loop that all constructions share: shard by shard, batch by batch, resumed after a kill."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.data.construct._base import Base
from fastadv.data.construct._checks import fingerprint
from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.imageset import to_unit
from fastadv.data.shards import (
    Shard,
    joined,
    read_shard,
    shard_count,
    shard_name,
    shard_range,
    write_index,
    write_shard,
)
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.description import check_described
from fastadv.runs.files import load_tensors, save_tensors
from fastadv.runs.identity import agree, check_same, plain
from fastadv.runs.keeper import Keeper
from fastadv.threat import Threat

DTYPES = ("uint8", "float32")


class BuildOptions(TypedDict, total=False):
    """The options that every construction takes by name; only `dtype` changes what the set holds.

    Where a process group is initialized, as under torchrun, its processes take the shards in turn, each reads
    and writes its own in `out_dir`, which all must see, and all return the set of one process. Without
    `out_dir` each holds all images. Processes that were called with different arguments raise InputError;
    where one is lost, the others raise LostProcessError.

    Args:
        batch_size: samples searched at once; 256 by default.
        dtype: "uint8" or "float32" storage; by default that of the base. 8-bit images are rounded inside the
            budget.
        out_dir: a folder into which each finished shard is written, and from which a stopped construction
            resumes. The set that is returned maps its images: a process holds one shard at a time. None, the
            default, keeps everything in memory.
        shard_size: samples of each shard; 1024 by default. An exception that stops a process, as Ctrl-C does
            and in commands SIGTERM, loses the current batch; a kill loses at most this many samples of each
            process.
        identity: a text that represents the code of a model or `module` that is a function of your own, which
            is otherwise known by its source; change it when that code changes. Needed where the source cannot
            be read.
        rank: for processes that do not communicate: this one builds the shards k with k % world_size == rank
            and returns them; the one that finds the folder complete writes the index and returns the whole
            set. 0 by default.
        world_size: the number of such processes; 1 by default.
        progress: called with (samples done, samples to do) after every batch.
    """

    batch_size: int
    dtype: str | None
    out_dir: str | PathLike[str] | None
    shard_size: int
    identity: str | None
    rank: int | None
    world_size: int | None
    progress: Callable[[int, int], None] | None


@dataclass(frozen=True)
class BatchSearch:
    """The search of one batch, ready to run."""

    labels: Tensor  # [B] the labels to store
    center: Tensor  # [B, ...] where the search starts, and the center of the budget
    run: Callable[[], Tensor]  # gives the images to store [B, ...]
    # of images [B, ...], what the search lowers [B], on the model as given
    objective: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Construction:
    """One construction: name, source model with its classes, budget, and how the search of a batch begins."""

    name: str
    source: Prepared
    classes: int
    threat: Threat
    settings: dict[str, Any]  # what else makes it what it is, for the card and the identity
    # of x, y, ids (on the CPU), and the batch's budget
    begin: Callable[[Tensor, Tensor, Tensor, Threat], BatchSearch]

    def budget(self, ids: Tensor, device: torch.device) -> Threat:
        """Return the threat of the samples `ids` alone."""
        radius = self.threat.radius
        if not isinstance(radius, Tensor):
            return self.threat
        return self.threat.with_radius(radius[ids].to(device))


class Store(Keeper):
    """The shards of the set `config`, in a folder into which others may write other shards of it.

    Each process reads and writes shards of its own; `assemble` is called by all together.
    """

    def __init__(self, out_dir: str | PathLike[str] | None, config: Mapping[str, Any]) -> None:
        super().__init__(out_dir, name="out_dir", shared=True)
        self._config = plain(config)

    def read(self, k: int) -> Shard | None:
        """Shard `k`, verified; None where it is not there."""
        there = self.path is not None and self.has(shard_name(k))
        return read_shard(self.path, k, self._config) if self.path is not None and there else None

    def write(self, k: int, tensors: dict[str, Tensor]) -> Shard:
        """Shard `k`; its file takes the place of the rows that a stopped process left of it."""
        if self.path is None:
            return Shard(tensors)
        shard = write_shard(self.path, k, tensors, self._config)
        self._rows_file(k).unlink(missing_ok=True)
        return shard

    def keep(self, k: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep the first rows of shard `k` for a process that goes on, if the disk lets us."""
        if self.path is not None:
            with suppress(OSError):
                save_tensors(self._rows_file(k), tensors, {"rows": json.dumps(self._config, sort_keys=True)})

    def unfinished(self, k: int) -> dict[str, Tensor]:
        """Return the first rows of shard `k` that a stopped process left; none where there are none."""
        if self.path is None or not self._rows_file(k).exists():
            return {}
        tensors, metadata = load_tensors(self._rows_file(k))
        check_same(self._rows_file(k), json.loads(metadata["rows"]), self._config)
        return tensors

    def assemble(self, shards: dict[int, Shard], count: int) -> ConstructedSet:
        """Return the set of all `count` shards with its index, where all are there; else that of these."""
        complete = processes.from_first(lambda: all(self.has(shard_name(k)) for k in range(count)))
        others = [k for k in range(count) if k not in shards] if complete else []
        for k, shard in zip(
            others, processes.in_turn(len(others), lambda i: self.read(others[i])), strict=True
        ):
            if shard is not None:
                shards[k] = shard
        ordered = [shards.pop(k) for k in sorted(shards)]
        tensors = joined(ordered)

        def card() -> dict[str, Any]:
            made = make_card(tensors, self._config)
            if self.path is None or not complete:
                return made
            found: dict[str, Any] = write_index(self.path, made, self._config, ordered)["card"]
            return found

        return ConstructedSet(tensors, processes.from_first(card))

    def _rows_file(self, k: int) -> Path:
        assert self.path is not None
        return self.path / f"rows-{k:05d}.safetensors"


def build(
    construction: Construction,
    base: Base,
    *,
    batch_size: int = 256,
    dtype: str | None = None,
    out_dir: str | PathLike[str] | None = None,
    shard_size: int = 1024,
    identity: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConstructedSet:
    """Run `construction` over the samples of `base`; BuildOptions describes the arguments."""
    with processes.agreement():
        check_count("batch_size", batch_size, 1)
        ranges = _own_shards(base.count, shard_size, rank, world_size)
        dtype = dtype or ("uint8" if base.eight_bit else "float32")
        if dtype not in DTYPES:
            raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        config = _config(construction, base, dtype, shard_size, identity)
        if out_dir is not None:
            check_described(config)
    if processes.world() > 1:
        asked = {"batch_size": batch_size, "out_dir": out_dir and str(out_dir), "torch": torch.__version__}
        processes.check_alike({**config, **asked}, agree)
    tick = ticks(progress, sum(map(len, ranges.values())))
    with Store(out_dir, config) as store:
        # what is there is read first: a folder of another set is refused before any work
        numbers = list(ranges)
        read = processes.in_turn(len(numbers), lambda place: store.read(numbers[place]))
        shards = {k: shard for k, shard in zip(numbers, read, strict=True) if shard is not None}
        if shards:
            tick(sum(len(ranges[k]) for k in shards))
        left = [k for k in ranges if k not in shards]

        def make(place: int) -> Shard:
            k = left[place]
            parts = partial(_build_batch, construction, base, dtype=dtype)
            return _build_shard(k, torch.tensor(ranges[k]), store, batch_size, parts, tick)

        for place, shard in enumerate(processes.in_turn(len(left), make)):
            shards[left[place]] = shard
            if place % processes.world() != processes.rank():  # another process has made it meanwhile
                tick(len(ranges[left[place]]))
        return store.assemble(shards, shard_count(base.count, shard_size))


def _build_shard(
    k: int,
    ids: Tensor,
    store: Store,
    batch_size: int,
    make: Callable[[Tensor], dict[str, Tensor]],
    tick: Callable[[int], None],
) -> Shard:
    """Build shard `k` of the samples `ids`, in batches. Whatever stops that, finished batches are kept."""
    begun = store.unfinished(k)
    done = len(begun["ids"]) if begun else 0
    rows = _for_all(begun, len(ids))
    if done:
        tick(done)
    try:
        # a process may have been stopped after the last batch; split would give an empty one
        for batch in torch.split(ids[done:], batch_size) if done < len(ids) else ():
            made = make(batch)
            rows = rows or _for_all(made, len(ids))
            for name, own in made.items():
                rows[name][done : done + len(batch)] = own
            done += len(batch)
            tick(len(batch))
        return store.write(k, rows)
    except BaseException:
        if done:
            store.keep(k, {name: held[:done] for name, held in rows.items()})
        raise


def _for_all(rows: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return room for `count` rows, the first of which are those given."""
    room = {name: own.new_empty((count, *own.shape[1:])) for name, own in rows.items()}
    for name, own in rows.items():
        room[name][: len(own)] = own
    return room


def ticks(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Return what is called with a number of images done, and tells `progress` of all so far."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return tick


def _own_shards(total: int, shard_size: int, rank: int | None, world_size: int | None) -> dict[int, range]:
    """Return the samples of each shard that is built here, or in a process group by all together; checked."""
    check_count("shard_size", shard_size, 1)
    own = processes.apart(shard_count(total, shard_size), rank, world_size, "shards", "shard_size")
    return {k: shard_range(k, total, shard_size) for k in own}


def _config(
    construction: Construction, base: Base, dtype: str, shard_size: int, identity: str | None
) -> dict[str, Any]:
    """Return what the set is, for its card and its identity."""
    return plain(
        {
            "construction": construction.name,
            "name": f"{base.name}-{construction.name}",
            "note": getattr(base.dataset, "note", ""),
            "classes": base.class_names(construction.classes),
            "base": base.fingerprint(),
            "model": fingerprint(construction.source, base, identity),
            "threat": construction.threat.describe(),
            "dtype": dtype,
            "shard_size": shard_size,
            "identity": identity,
            **construction.settings,
        }
    )


def _build_batch(construction: Construction, base: Base, ids: Tensor, dtype: str) -> dict[str, Tensor]:
    """Return what the set holds of the samples `ids`; InputError for images outside the budget."""
    x, y = base.fetch(ids)
    threat = construction.budget(ids, x.device)
    search = construction.begin(x, y, ids, threat)
    images = encode(search.run(), search.center, threat, dtype)
    served = to_unit(images)
    row = {
        "images": images,
        "labels": search.labels,
        "original_labels": y,
        "ids": ids,
        "predicted": construction.source.verdict(served).argmax(1),
        "objective_before": search.objective(search.center).float(),
        "objective_after": search.objective(served).float(),
        "distance": threat.distance(served, search.center).float(),
    }
    held = {name: tensor.cpu().contiguous() for name, tensor in row.items()}
    verify(held["images"], search.center.cpu(), construction.budget(ids, ids.device), ids)
    return held


def encode(x_adv: Tensor, center: Tensor, threat: Threat, dtype: str) -> Tensor:
    """Return `x_adv` [B, ...] as stored: float32 as it is, or uint8 rounded inside the ball."""
    if dtype == "float32":
        return x_adv.float()
    return (threat.quantize(x_adv, center) * 255).round().to(torch.uint8)


def verify(images: Tensor, center: Tensor, threat: Threat, ids: Tensor) -> None:
    """Raise InputError where stored images lie outside the threat around `center`."""
    outside = ~threat.contains(to_unit(images), center)
    if outside.any():
        stored = str(images.dtype).removeprefix("torch.")
        advice = (
            "8 bits are too coarse for it: use dtype='float32'"
            if stored == "uint8"
            else "the search left it, which is a bug: please report it"
        )
        raise InputError(
            f"dtype={stored!r}: expected images inside the {threat.symbol} budget, got {int(outside.sum())} "
            f"outside, the first from sample {int(ids[outside][0])}; {advice}"
        )
