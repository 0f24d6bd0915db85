"""CUDA graphs of steps: what a graph depends on, which models have none, and what is kept of a model.

A graph reads weights in place, so new values of theirs need no new one. What it cannot follow is in its key:
where tensors lie, plain attributes, and switches of torch. A model that draws random numbers, writes
something, has hooks, or reads values has no graph; it is passed as ever.
"""

import random
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import has_global_hooks, has_modes, sharding, tensors_of, version
from fastadv.engine.module import is_compiled
from fastadv.engine.precision import switches
from fastadv.engine.stamp import FIXED, OWN, is_hooked
from fastadv.errors import InputError
from fastadv.ops._graphs import Kept, Replay, bucket, current, nbytes, stream_of
from fastadv.rng import CPU, generators_kept
from fastadv.text import first_line

KINDS = 4  # of which graphs are kept, as they hold on to weights that were replaced
FEW = 16  # rows that pass twice, to see whether they pass alike
LEAST = 8  # steps, for fewer of which capturing costs more than it gains
PLAIN = (*FIXED, torch.Size)  # kinds of values that are compared themselves

CAPTURED = "captured as CUDA graphs"  # a note

# tensors of one row a sample, by name
Rows = dict[str, Tensor]
Step = Callable[[], None]
Pass = Callable[[Tensor], Tensor]


_here = threading.local()


def in_step() -> bool:
    """Return whether this thread is in a step of a graph, where no value may be read."""
    return getattr(_here, "steps", False)


@contextmanager
def stepping() -> Iterator[None]:
    """Take a step of a graph inside."""
    before, _here.steps = in_step(), True
    try:
        yield
    finally:
        _here.steps = before


class Graph:
    """A step on static rows, whose spare ones repeat real samples."""

    def __init__(self, key: Hashable, rows: Rows, holds: object) -> None:
        self.key, self.rows = key, {name: _padded(tensor) for name, tensor in rows.items()}
        self._replay, self._holds = Replay(), holds  # memory that a graph reads must stay

    @property
    def bytes(self) -> int:
        return nbytes(self.rows.values()) + self._replay.reserved

    def load(self, rows: Rows) -> None:
        """Take other rows."""
        for name, tensor in rows.items():
            self.rows[name][: len(tensor)].copy_(tensor)

    def run(self, make: Callable[[Rows], Step], times: int) -> None:
        """Take the step, which `make` gives of the rows, so many times: once as it is, then replayed."""

        def step() -> None:
            make(self.rows)()  # made here, so that the graph owns what that allocates

        with current(next(iter(self.rows.values())).device), stepping():
            for _ in range(times):
                self._replay(lambda: step)


class Graphs(Kept[Graph]):
    """The graphs of one owner: a model, or a search copy. They go with it."""

    def __init__(self) -> None:
        super().__init__()
        self.alike: dict[Hashable, bool] = {}  # whether a model of that kind may be captured


_graphs: "WeakKeyDictionary[object, Graphs]" = WeakKeyDictionary()


def graphs_of(owner: object) -> Graphs:
    return _graphs.setdefault(owner, Graphs())


def release() -> None:
    """Forget all graphs, where memory ran out."""
    for graphs in list(_graphs.values()):
        graphs.clear()


@dataclass(frozen=True)
class Captures:
    """The graphs of a model as it is now, each taken for a whole call, and then given back."""

    graphs: Graphs
    kind: Hashable  # what the model is, beyond the values of its weights
    holds: object  # what its graphs read
    alike: Callable[[], bool]  # whether it can be captured, before the first
    tell: Callable[[str], None] | None = None  # is told why not, if somebody asked for graphs

    def take(self, key: Hashable, rows: Rows, steps: int) -> Graph | None:
        """Return the graph of a step for such rows, filled with them; None where so few `steps` need none."""
        first = next(iter(rows.values()))
        kinds = tuple((name, t.shape[1:], t.dtype, t.is_contiguous()) for name, t in rows.items())
        whole = self.kind, key, bucket(len(first)), kinds, stream_of(first.device)
        graph = self.graphs.take(whole)
        if graph is not None:
            graph.load(rows)
        elif steps >= LEAST and self._may_capture():
            graph = Graph(whole, rows, self.holds)
        return graph

    def _may_capture(self) -> bool:
        alike = self.graphs.alike
        if (known := alike.get(self.kind)) is not None:
            return known
        if len(alike) == KINDS:
            if not any(alike.values()):  # as of a model whose passes write attributes
                return False
            alike.clear()
            self.graphs.clear()
        alike[self.kind] = False  # meanwhile, to other threads
        with suppress(Exception):  # models of one batch size raise anything
            alike[self.kind] = self.alike()
        if not alike[self.kind]:
            self.refuse("two passes of the same rows differ, draw random numbers or write something")
        return alike.get(self.kind, False)

    def run(self, graph: Graph, make: Callable[[Rows], Step], times: int) -> bool:
        """Return whether the step could be taken so many times; else its kind is not captured again."""
        why = obstacle(lambda: graph.run(make, times))
        if why is not None:
            self.refuse(why)
        return why is None

    def give_back(self, graph: Graph) -> None:
        if self.graphs.alike.get(self.kind) is not False:  # another thread may have refused it
            self.graphs.give_back(graph.key, graph, graph.bytes)

    def refuse(self, why: str) -> None:
        self.graphs.alike[self.kind] = False
        self.graphs.clear()
        if self.tell is not None:
            self.tell(why)


def obstacle(capture: Step) -> str | None:
    """Capture, and return why that is not possible; None where it is."""
    try:
        capture()
    except InputError:  # on any path
        raise
    except Exception as error:  # what a capture does not allow raises anything
        return first_line(error)
    return None


def kind_of(model: nn.Module) -> Hashable | None:
    """Return what a captured pass depends on beyond the values of weights; None where there can be none."""
    if has_global_hooks() or has_modes():
        return None
    parts = list(model.modules())
    held = [tensor for tensors in tensors_of(parts) for tensor in tensors]
    devices = {tensor.device for tensor in held}
    if any(map(_stays_out, parts)) or not all(map(_is_plain, held)) or len(devices) != 1:
        return None
    places = ((tensor.data_ptr(), tensor.dtype) for tensor in held)
    return _switches(), *places, *map(_facts, parts)


def _stays_out(part: nn.Module) -> bool:
    """Return whether a part is none that a graph can hold."""
    wrapped = nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule, *sharding()[0]
    return is_hooked(part) or is_compiled(part) or isinstance(part, wrapped)


def passes_alike(model: nn.Module, run: Pass, x: Tensor) -> bool:
    """Return whether a few rows pass alike by `run` among others, to the bit, and passes write nothing."""
    few, buffers = x[:FEW], list(model.buffers())

    def state() -> Hashable:
        grads = (id(weight.grad) for weight in model.parameters())
        return drawn([CPU, x.device]), kind_of(model), *grads, *map(version, buffers)

    with generators_kept(x.device):
        before, values, first, alike = state(), [buffer.clone() for buffer in buffers], run(few), True
        for kept in range(min(2, len(few))):  # each second row, beside others
            others = few.clone()
            others[1 - kept :: 2] /= 2
            alike = alike and torch.equal(first[kept::2], run(others)[kept::2])
        return alike and before == state() and all(map(torch.equal, values, buffers))


def _switches() -> Hashable:
    cudnn: Any = torch.backends.cudnn
    return (
        *(getattr(backend, name) for backend, name, _ in switches()),
        torch.are_deterministic_algorithms_enabled(),
        cudnn.benchmark, cudnn.deterministic, cudnn.enabled, torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cuda"), torch.get_default_dtype(),
    )  # fmt: skip


def drawn(devices: Iterable[torch.device]) -> tuple[Hashable, ...]:
    """Return the states of the generators of Python, NumPy, and of torch on these devices."""
    on_gpu = torch.cuda.get_rng_state
    states = [on_gpu(device) if device.type == "cuda" else torch.get_rng_state() for device in devices]
    return random.getstate(), repr(np.random.get_state()), *(bytes(state.tolist()) for state in states)


def _facts(part: nn.Module) -> Hashable:
    """Return what a part is, without its tensors and parts."""
    attributes = ((name, _value(value)) for name, value in vars(part).items() if name not in OWN)
    return type(part), part.training, *attributes


def _value(value: Any) -> Hashable:
    """Return what tells whether a value still is what it was."""
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, Tensor):
        return (value.data_ptr(), version(value)) if _is_plain(value) else id(value)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), *map(_value, value)
    if isinstance(value, dict):
        return dict, *((_value(name), _value(held)) for name, held in value.items())
    if isinstance(value, nn.Module):  # one that is not registered
        return id(value), *map(_value, value.parameters())
    attributes = getattr(value, "__dict__", {})  # of an object of any other kind
    return id(value), *((name, held) for name, held in attributes.items() if isinstance(held, PLAIN))


def _is_plain(tensor: Tensor) -> bool:
    """Return whether it has memory of its own, and torch counts what is written there."""
    return tensor.layout == torch.strided and not tensor.is_inference()


def _padded(tensor: Tensor) -> Tensor:
    """Return a copy with the rows of its bucket in the same layout; spare ones repeat real samples."""
    copy = tensor[torch.arange(bucket(len(tensor)), device=tensor.device) % len(tensor)]
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return copy.contiguous(memory_format=torch.channels_last) if last and not tensor.is_contiguous() else copy
