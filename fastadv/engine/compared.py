"""Which gradients of a search have been compared with the model's, and what is left where they differ."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastadv.engine import guard
from fastadv.engine.form import COMPILED, Form
from fastadv.engine.notes import Notes
from fastadv.engine.options import Options
from fastadv.engine.room import ran_out
from fastadv.errors import InputError, NoGradientError

FOUR = 2  # bits of a number: sizes up to four times each other are of one class


def size_class(x: Tensor) -> Hashable:
    """Return what batches have in common that take the same ways through kernels."""
    return x.dtype, tuple(x.shape[1:]), len(x).bit_length() // FOUR


def captures(x: Tensor) -> bool:
    """Return whether a CUDA graph is being captured, where no value can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class Trusted:
    """The kinds of passes that were compared, by the rewrites they used and the sizes of their batches."""

    def __init__(self) -> None:
        # the most rows that were compared, of each kind and of each size class
        self._kinds: dict[Hashable, int] = {}
        self._classes: dict[Hashable, int] = {}
        self.off: frozenset[str] = frozenset()  # rewrites that were wrong

    @classmethod
    def of(cls, source: object, given: object, options: Options) -> "Trusted":
        """Return those of a model that follows its source, which are known from its last time; else new
        ones.
        """
        if options.fold or not (isinstance(source, nn.Module) and isinstance(given, nn.Module)):
            return cls()
        return _following.setdefault(source, {}).setdefault((options, _build(given)), cls())

    def knows(self, used: Hashable, x: Tensor) -> bool:
        """Return whether a pass of as many rows like x, or more of the same size class, was compared."""
        return len(x) <= self._kinds.get((used, size_class(x)), 0)

    def knows_size(self, x: Tensor) -> bool:
        """Return whether any pass of as many rows was."""
        return len(x) <= self._classes.get(size_class(x), 0)

    def add(self, used: Hashable, x: Tensor) -> None:
        """Take a pass of x with these rewrites."""
        for held, key in ((self._kinds, (used, size_class(x))), (self._classes, size_class(x))):
            held[key] = max(held.get(key, 0), len(x))


_following: "WeakKeyDictionary[nn.Module, dict[Any, Trusted]]" = WeakKeyDictionary()


def _build(model: nn.Module) -> Hashable:
    """Return what a model is made of, so that another one put together since is not trusted in its place."""
    own = ("forward", "_conv_forward")
    return tuple((type(part), *(name for name in own if name in vars(part))) for part in model.modules())


class Compared(Protocol):
    """A search whose gradients are compared: what is asked of a `SearchTwin`."""

    form: Form
    as_given: Form
    trusted: Trusted
    probing: list[Any]
    notes: Notes
    lock: Any

    @property
    def differs(self) -> bool: ...
    @property
    def replays(self) -> bool: ...
    def use(self, form: Form) -> None: ...
    def use_given(self) -> None: ...
    def pull(self, form: Form, x: Tensor, by_logits: Tensor) -> Tensor: ...
    def unfolding(self, step: Callable[..., Any], *given: Any) -> Any: ...


def compared(search: Compared, used: Hashable, x: Tensor, by_logits: Tensor, gradient: Tensor) -> bool:
    """Return whether `gradient` may be used: that of by_logits [B, K] @ logits at x, by a pass that `used`
    rewrites.

    The first pass of each kind is compared with the model as given. Where that does not agree, what was wrong
    is left, and the pass is to be taken again.
    """
    if not (used or search.differs) or not len(x) or x.device.type == "meta" or captures(x):
        return True
    # estimates come from logits, which were compared; of a graph, rows without the spare ones were
    if search.probing or search.replays or search.trusted.knows(used, x):
        return True
    with search.lock:
        trusted = search.trusted
        if trusted.knows(used, x):  # by another thread, meanwhile
            return True

        def agrees(found: Tensor | None = None) -> bool | None:
            form, given = search.form, replace(search.as_given, whole=search.form.whole)
            ways = guard.Ways(
                searched=partial(search.unfolding, search.pull, form),
                given=partial(search.pull, given),
                plain=partial(search.pull, form.without_functions()),
            )
            found = ways.searched(x, by_logits) if found is None else found
            return guard.agrees(ways, x, by_logits, found, form.rounds or form.dtype)

        agreed = agrees(gradient)
        if agreed:
            trusted.add(used, x)
        if agreed is not False:  # where there is nothing to compare, the next pass of that kind is
            return True
        names = set(search.form.rewriting.names)
        culprit = leave_culprit(search, lambda: agrees() is not False)
        trusted.off |= names - set(search.form.rewriting.names)
        search.notes.warn(left_out(culprit, "the gradient of the search was not that of the model"))
        return False


def leave_culprit(search: Compared, agrees: Callable[[], bool]) -> str | None:
    """Leave what is wrong, one thing if that is enough; its name. None where all had to go."""
    form, names = search.form, search.form.rewriting.names

    def right() -> bool:
        try:
            return agrees()
        except Exception as error:
            if ran_out(error) or isinstance(error, InputError | NoGradientError):
                search.use(form)
                raise
            return False  # as without views in channels-last layout

    for name in names:
        search.use(form.without(name))
        if right():
            return name
        search.use(form)
    if len(names) > 1:
        search.use(form.without(*names))
        if right():
            left = set(names)
            for name in names:  # some of them may be right
                search.use(form.without(*left - {name}))
                if right():
                    left -= {name}
                else:
                    search.use(form.without(*left))
            return " and ".join(name for name in names if name in left)
        search.use(form)
    if form.compiled:
        search.use(form.without_compiler())
        if right():
            return COMPILED
    search.use_given()
    return None


def left_out(name: str | None, why: str) -> str:
    """Return the note for what was left; None stands for all."""
    return f"fell back to the model as given: {why}" if name is None else f"not {name}: {why}"
