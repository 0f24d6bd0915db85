"""The processes of one run, as torchrun starts them; with one process nothing here does anything."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError, LostProcessError
from fastadv.runs.identity import agree

if dist.is_available():
    # Its functions keep the group of their import as a default. torch imports it late, and a group that is
    # kept has threads of Gloo that may still drop tensors when Python ends, which aborts the process.
    import torch.distributed.nn.functional

T = TypeVar("T")

EVERYWHERE = "in every process"  # the note on an error that all processes raise
_KINDS = (InputError, CorruptFileError, FloatingPointError, OSError)


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[.*?\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            f"processes: expected all {world()} of this run to go on, lost one of them ({reason}); "
            "look for its own error, and start all again with resume"
        ) from error


def add_up(tensor: Tensor) -> Tensor:
    """Return the sum over the processes, written into `tensor`; bit for bit the same in each."""
    if world() > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, of one shape: [W, ...] in the order of their ranks."""
    if world() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world())]
    with _together():
        dist.all_gather(parts, tensor)
    return torch.stack(parts)


def tell(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _together():
        dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """Return what `make` gives in the first process, in all of them; its error, too, is everybody's."""
    if world() == 1:
        return make()
    results: list[Any] = [None]
    with agreement():
        if rank() == 0:
            results = [make()]
    with _together():
        dist.broadcast_object_list(results, src=0)
    result: T = results[0]
    return result


def in_turn(count: int, results: Iterator[T]) -> Iterator[T]:
    """Return `count` results in every process, in their order; `results` are this one's: every W-th."""
    return results if world() == 1 else _exchanged(count, results)


def _exchanged(count: int, results: Iterator[T]) -> Iterator[T]:
    for first in range(0, count, world()):
        with agreement():
            mine = [next(results, None)]
        # a result is not held here while the next is made, which may need its memory
        yield from cast(list[T], tell(mine.pop())[: count - first])


def share_of(work: Sequence[T]) -> Sequence[T]:
    """Return the pieces of work whose results `in_turn` expects of this process."""
    return work[rank() :: world()]


@contextmanager
def agreement() -> Iterator[None]:
    """Raise an error that one process meets inside in every one. Inside, none waits for another."""
    if world() == 1:
        yield
        return
    raised: Exception | None = None
    try:
        yield
    except Exception as error:
        raised = error
    kind = next((kind for kind in _KINDS if isinstance(raised, kind)), RuntimeError)
    errors = tell(None if raised is None else (kind, str(raised)))
    if raised is not None:
        raise _everywhere(raised)
    for place, met in enumerate(errors):
        if met is not None:
            raise _everywhere(met[0](f"process {place}: {met[1]}"))


def _everywhere(error: Exception) -> Exception:
    error.add_note(EVERYWHERE)
    return error


def check_alike(about: Mapping[str, Any]) -> None:
    """Raise InputError in every process, naming what differs, unless all describe their run in this way."""
    theirs = tell(dict(about))
    for place, other in enumerate(theirs):
        different = [name for name in other if not agree(theirs[0][name], other[name])]
        if different:
            raise _everywhere(
                InputError(
                    f"processes: expected the same run in all {len(theirs)}, got process {place} with "
                    f"another {', another '.join(different)} than process 0; "
                    "start all with the same code, arguments, data and initial weights"
                )
            )
