"""InEval: a model in eval mode for the length of a call, and as it was after that."""

import threading
from itertools import repeat
from typing import Any

from torch import nn

_lock = threading.RLock()
# parts of models that calls hold in eval mode, by their ids: each with its own mode, and how many calls
_held: dict[int, tuple[bool, int]] = {}


class _Here(threading.local):
    """The first parts of what calls of this thread hold, by their ids."""

    def __init__(self) -> None:
        self.roots = set[int]()


_here = _Here()


class InEval:
    """Keeps parts, the first of which leads to the others, in eval mode inside; entered once.

    Calls within one another and threads are counted: the last that leaves gives each part its mode back.
    """

    __slots__ = ("_held_here", "_holds", "_parts")

    def __init__(self, parts: list[nn.Module]) -> None:
        self._parts, self._holds, self._held_here = parts, False, False

    def __enter__(self) -> None:
        parts = self._parts
        with _lock:
            # a frozen script has no mode
            trains = True in map(getattr, parts, repeat("training"), repeat(False))
            # A call around this one leaves later. One of another thread may leave earlier: what it holds is
            # in eval mode, and has to stay there.
            self._held_here = bool(parts) and id(parts[0]) in _here.roots
            shared = _held and not self._held_here and not _held.keys().isdisjoint(map(id, parts))
            self._holds = trains or bool(shared)
            if self._holds:
                self._hold(trains)

    def _hold(self, trains: bool) -> None:
        for part in self._parts:
            training, calls = _held.get(id(part), (getattr(part, "training", False), 0))
            _held[id(part)] = training, calls + 1
        _here.roots.add(id(self._parts[0]))
        if trains:
            try:
                self._parts[0].eval()
            except BaseException:
                self._leave()
                raise

    def __exit__(self, *error: Any) -> None:
        if self._holds:
            with _lock:
                self._leave()

    def _leave(self) -> None:
        if not self._held_here:
            _here.roots.discard(id(self._parts[0]))
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
