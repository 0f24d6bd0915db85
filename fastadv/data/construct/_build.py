"""The loop that all constructions share: shard by shard, batch by batch, resumed after a kill."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from fastadv._checks import check_choice, check_count
from fastadv.data.construct._base import Base, describe_model
from fastadv.data.construct.constructed import ConstructedSet, indexed, make_card
from fastadv.data.imageset import UNIT, to_unit
from fastadv.data.shards import (
    SHARDS,
    Shard,
    joined,
    read_shard,
    shard_name,
    write_shard,
)
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.progress import Progress, check_progress, shown
from fastadv.runs import processes
from fastadv.runs.identity import plain
from fastadv.runs.work import Keeper
from fastadv.threat import Threat

DTYPES = ("uint8", "float32")


class BuildOptions(TypedDict, total=False):
    """The options that every construction takes by name; only `dtype` changes the set.

    Where a process group is initialized, as under torchrun, its processes take the shards in turn, each reads
    and writes its own in `out_dir`, which all must see, and all return the set of one process. Without
    `out_dir` each holds all images. Processes that were called with different arguments raise InputError;
    where one is lost, the others raise LostProcessError.

    Args:
        batch_size: samples searched at once; 256 by default.
        dtype: "uint8" or "float32" storage; by default that of the base. 8-bit images are in [0, 1], and
            rounded inside the budget.
        out_dir: a folder into which each finished shard is written, and from which a stopped construction
            resumes. The set that is returned maps its images: a process holds one shard at a time. None, the
            default, keeps everything in memory.
        shard_size: samples of each shard; 1024 by default. Whatever stops a process loses at most this many
            of its samples.
        identity: a text that represents the code of a model or `module` that is a function of your own, which
            is otherwise known by its answers.
        progress: True shows a bar on stderr; a function is called with (samples done, samples to do).
    """

    batch_size: int
    dtype: str | None
    out_dir: str | PathLike[str] | None
    shard_size: int
    identity: str | None
    progress: Progress


Searched = tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]
"""The labels to store [B], the images [B, ...] around which is the budget, and those to store; and what the
search lowers [B], a function of images, on the model as given."""


@dataclass(frozen=True)
class Construction:
    """One construction: name, source model with its classes, budget, and the search of a batch."""

    name: str
    source: Prepared
    classes: int
    threat: Threat
    settings: dict[str, Any]  # what else makes it what it is, for the card and the identity
    search: Callable[[Tensor, Tensor, Tensor], Searched]  # of x, y, and ids (on the CPU)


def build(
    construction: Construction, base: Base, *, batch_size: int = 256, dtype: str | None = None,
    out_dir: str | PathLike[str] | None = None, shard_size: int = 1024, identity: str | None = None,
    progress: Progress = False,
) -> ConstructedSet:  # fmt: skip
    """Run `construction`, whose source is prepared, over `base`; BuildOptions describes the arguments."""
    with processes.agreement():
        check_count("batch_size", batch_size, 1)
        check_count("shard_size", shard_size, 1)
        ids = torch.split(torch.arange(base.count, device="cpu"), shard_size)
        box = construction.threat.box
        dtype = dtype or ("uint8" if base.eight_bit and box == UNIT else "float32")
        if check_choice("dtype", dtype, DTYPES) == "uint8" and box != UNIT:
            raise InputError(f"dtype: expected 'float32' in the box {box}, got 'uint8', which holds [0, 1]")
        check_progress(progress)
        config = _config(construction, base, dtype, shard_size, identity)
    if processes.world() > 1:
        alike = {"batch_size": batch_size, "out_dir": out_dir and str(out_dir), "torch": torch.__version__}
        processes.check_alike({**config, **alike})
    with (
        construction.source.in_eval(),
        shown(progress, f"building {construction.name}") as show,
        Keeper(out_dir, name="out_dir") as keeper,
    ):
        processes.from_first(lambda: _check_folder(keeper.path, config))
        done, built = 0, set[int]()  # images, and shards that are made here and counted meanwhile

        def tick(images: int) -> None:
            nonlocal done
            done += images
            if show is not None:
                show(done, base.count)

        def shard(k: int) -> Shard:
            if keeper.path is not None and keeper.there(shard_name(k)):
                return read_shard(keeper.path, k, config)
            rows = dict[str, Tensor]()
            for first, batch in enumerate(torch.split(ids[k], batch_size)):
                for name, part in _build_batch(construction, base, batch, dtype).items():
                    if name not in rows:  # filled in place: parts that are joined would be held twice
                        rows[name] = part.new_empty((len(ids[k]), *part.shape[1:]))
                    rows[name][first * batch_size :][: len(batch)] = part
                tick(len(batch))
            built.add(k)
            return Shard(rows) if keeper.path is None else write_shard(keeper.path, k, rows, config)

        shards, mine = list[Shard](), map(shard, processes.share_of(range(len(ids))))
        for k, there in enumerate(processes.in_turn(len(ids), mine)):
            shards.append(there)
            if k not in built:
                tick(len(ids[k]))
        if keeper.path is not None:
            return indexed(keeper.path, config, shards)
        tensors = joined(shards)
        return ConstructedSet(tensors, processes.from_first(lambda: make_card(tensors, config)))


def _check_folder(folder: Path | None, config: Mapping[str, Any]) -> None:
    """Raise InputError, before any work, where the first shard that is there is of another set."""
    paths = [] if folder is None else sorted(folder.glob(SHARDS))
    if folder is not None and paths:
        read_shard(folder, int(paths[0].stem.partition("-")[2]), config)


def _config(
    construction: Construction, base: Base, dtype: str, shard_size: int, identity: str | None
) -> dict[str, Any]:
    return plain(
        {
            "construction": construction.name,
            "name": f"{base.name}-{construction.name}",
            "note": getattr(base.dataset, "note", ""),
            "classes": base.class_names(construction.classes),
            "base": base.describe(),
            "model": describe_model(construction.source, base),
            "threat": construction.threat.describe(),
            "metric": construction.threat.metric,
            "dtype": dtype,
            "shard_size": shard_size,
            "identity": identity,
            **construction.settings,
        }
    )


def _build_batch(construction: Construction, base: Base, ids: Tensor, dtype: str) -> dict[str, Tensor]:
    """Return what the set holds of the samples `ids`; InputError for images outside the budget."""
    x, y = base.fetch(ids)
    threat, (labels, center, images, objective) = construction.threat, construction.search(x, y, ids)
    if dtype == "float32":
        images = images.float()
    else:  # rounded inside the ball
        images = (threat.quantize(images, center) * 255).round().to(torch.uint8)
    served = to_unit(images)
    row = {
        "images": images,
        "labels": labels,
        "original_labels": y,
        "ids": ids,
        "predicted": construction.source.verdict(served).argmax(1),
        "objective_before": objective(center).float(),
        "objective_after": objective(served).float(),
        "distance": threat.distance(served, center).float(),
    }
    held = {name: tensor.cpu().contiguous() for name, tensor in row.items()}
    verify(held["images"], center.cpu(), threat, ids)
    return held


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
