"""The certified radii of a data set, batch by batch: what stopped goes on, and jobs of an array share it."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data._batches import batches
from fastadv.data.sampling import sample_count
from fastadv.errors import InputError
from fastadv.evaluation._outcome import Part
from fastadv.evaluation._parts import IDENTITY, Parts, check_apart
from fastadv.models import ABS
from fastadv.runs import processes
from fastadv.runs.description import check_described, describe, describe_shared


def lower_bounds(
    model: ABS,
    dataset: Dataset[Any],
    *,
    norm: Literal["l2", "linf", "l0"] = "l2",
    starts: int = 4,
    tight: bool = False,
    batch_size: int = 100,
    run_dir: str | PathLike[str] | None = None,
    resume: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Compute the radius of each sample within which an ABS model keeps its right decision, on the CPU.

    Processes of one group take the batches in turn, and all return all radii.

    Args:
        model: an `ABS`.
        dataset: of pairs (x, y), such as an `ImageSet`.
        norm: "l2", "linf" or "l0", as `ABS.lower_bound` takes it.
        starts: of the search for the bound, as `ABS.lower_bound` takes it.
        tight: whether to tighten the bound, as `ABS.lower_bound` takes it.
        batch_size: samples at a time, 1 or more.
        run_dir: a folder in which the radii of each batch are kept as soon as they are there; None keeps
            nothing.
        resume: continue with what the folder holds, which must be of the same model, data and arguments.
        rank: for processes that do not communicate, such as the jobs of an array: this one bounds the batches
            k with k % world_size == rank, returns the radii of these, and records in `run_dir` that it is
            done. With all shares, put together by `fastadv.evaluation.merge`, `resume` without a rank gives
            all radii.
        world_size: the number of such processes.
        progress: called with (samples done, samples of this process) before and after every batch.

    Returns:
        [N], the radii.

    Raises:
        InputError: an argument is wrong, as for `ABS.lower_bound` and `fastadv.evaluate`.
        CorruptFileError: a file in `run_dir` is damaged.

    Source:
        Schott et al. 2018 (arXiv 1805.09190), section 4.
    """
    with processes.agreement():
        if not isinstance(model, ABS):
            raise InputError(f"model: expected an ABS, got {type(model).__name__}")
        size, device = sample_count(dataset), model.weights[0].device
        check_count("batch_size", batch_size, 1)
        if resume and run_dir is None:
            raise InputError("resume: expected a run_dir to go on with, got none; pass run_dir as well")
        if apart := (rank, world_size) != (None, None):
            check_apart(run_dir)
        parts = torch.split(torch.arange(size), batch_size)
        numbers = processes.apart(len(parts), rank, world_size, each="batches", size="batch_size")
    search: dict[str, Any] = {"norm": norm, "starts": starts, "tight": tight}
    config: dict[str, Any] = {}
    if run_dir is not None or processes.world() > 1:
        config = {"lower_bounds": search, "batch_size": batch_size, "model": describe(model)}
        check_described(config)
        config["data"] = describe_shared(dataset)
        processes.check_alike(config)
    mine = [parts[k] for k in numbers[processes.rank() :: processes.world()]]
    read = batches(dataset, batch_size, order=torch.cat(mine)) if mine else iter(())
    done, total = 0, sum(map(len, mine))
    tell = progress or (lambda done, total: None)
    tell(done, total)
    with Parts(run_dir, shared=apart) as kept:
        kept.begun(IDENTITY, resume, "lower bounds", lambda path: None)
        kept.identity = kept.identify(IDENTITY, config)

        def bounded(place: int) -> Tensor:
            nonlocal done
            x, y, ids = next(read)

            def make() -> Part:
                return Part({"radius": model.lower_bound(x.to(device), y.to(device), **search).cpu()})

            radius = kept.get(f"{numbers[place]:05d}-00", {"ids": ids.cpu()}, make)["radius"]
            done += len(ids)
            tell(done, total)
            return radius

        radii = torch.cat(list(processes.in_turn(len(numbers), bounded)))
        if apart:
            kept.finished(rank or 0, world_size or 1, len(parts), 1)
    return radii
