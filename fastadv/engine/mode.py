"""InEval: a model in eval mode for the length of a call, and as it was after that."""

import threading
from itertools import repeat
from typing import Any

from torch import nn

from fastadv.engine.module import traits
from fastadv.engine.precision import without_cudnn

_lock = threading.RLock()
# parts of models that calls hold in eval mode, by their ids: each with its own mode, and how many calls
_held: dict[int, tuple[bool, int]] = {}


class InEval:
    """Keeps parts, the first of which leads to the others, in eval mode inside; entered once.

    Calls within one another and threads are counted: the last that leaves gives each part its mode back.
    Recurrent layers, which cuDNN does not differentiate in eval mode, compute without it.
    """

    __slots__ = ("_holds", "_kernels", "_parts")

    def __init__(self, parts: list[nn.Module]) -> None:
        self._parts, self._holds = parts, False
        self._kernels = without_cudnn() if traits(frozenset(map(type, parts))).recurrent else None

    def __enter__(self) -> None:
        with _lock:
            # a frozen script has no mode
            trains = True in map(getattr, self._parts, repeat("training"), repeat(False))
            # what another call holds is in eval mode, and has to stay there when that leaves
            self._holds = trains or (bool(_held) and not _held.keys().isdisjoint(map(id, self._parts)))
            if self._holds:
                self._hold(trains)
        if self._kernels is not None:
            self._kernels.__enter__()

    def _hold(self, trains: bool) -> None:
        for part in self._parts:
            training, calls = _held.get(id(part), (getattr(part, "training", False), 0))
            _held[id(part)] = training, calls + 1
        if trains:
            try:
                self._parts[0].eval()
            except BaseException:
                self._leave()
                raise

    def __exit__(self, *error: Any) -> None:
        if self._kernels is not None:
            self._kernels.__exit__(None, None, None)
        if self._holds:
            with _lock:
                self._leave()

    def _leave(self) -> None:
        modes = list[tuple[nn.Module, bool]]()  # as they were; as they are, where another call holds a part
        for part in self._parts:
            training, calls = _held.pop(id(part))
            if calls > 1:
                _held[id(part)], training = (training, calls - 1), part.training
            modes.append((part, training))
        try:
            for part, training in modes:
                if part.training != training:
                    part.train(training)  # its own may do more than set modes
        finally:
            for part, training in modes:
                part.training = training
