"""Training steps as CUDA graphs: search, passes, clipping and the optimizer in one launch."""

import random
from collections.abc import Callable, Hashable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from fastadv._torch import has_hooks
from fastadv.engine.capture import kind_of, stepping
from fastadv.engine.copying.copier import registers_all
from fastadv.engine.copying.reach import Stamp
from fastadv.errors import InputError
from fastadv.ops import _graphs
from fastadv.text import first_line
from fastadv.train.optim import DeviceRates
from fastadv.train.recipes import OwnStep, Recipe, Step
from fastadv.train.recipes._followers import Followers
from fastadv.train.recipes.base import take_step

LEAST = 16  # full steps of an epoch, for fewer of which a capture takes longer than it saves


def is_fixed(recipe: Recipe | OwnStep) -> bool:
    """Return whether a recipe does the same in every step, as those of this library do without a function."""
    inner = getattr(recipe, "recipe", None)
    ours = type(recipe).__module__.startswith("fastadv.") and not callable(getattr(recipe, "loss", None))
    return ours and (inner is None or is_fixed(inner))


def can_follow(model: nn.Module) -> bool:
    """Return whether a graph of the model holds as long as a look at it tells no change."""
    return (
        kind_of(model) is not None and Stamp(model, values=False).known and registers_all(model)
        and not any(map(has_hooks, model.parameters()))
    )  # fmt: skip


def run(recipe: Recipe | OwnStep, rates: DeviceRates | None, at: Step, captured: bool = False) -> None:
    with nullcontext() if rates is None else rates.in_use(captured):
        take_step(recipe, at)


def _note(noted: Tensor, loss: Tensor) -> None:
    noted.copy_(loss.detach())


class Captured:
    """Takes the full steps of an epoch, from a CUDA graph where that can be."""

    # The first step runs as it is, the second is watched, the third captured and replayed. A graph reads
    # weights, buffers and rates in place; seeds of the recipe are numbers in it, so each epoch has its own.

    def __init__(self, run: Callable[..., None], followers: Followers, refuse: Callable[[str], None]) -> None:
        self._run, self._followers, self._refuse = run, followers, refuse
        self._ran = 0
        self._graph: Callable[[], None] | None = None

    def take(self, at: Step) -> None:
        # no method is kept, as a circle of references would keep the graph's memory
        (self._first, self._second, self._third, self._replay, self._run)[self._ran](at)

    def _first(self, at: Step) -> None:
        for frozen in self._followers.frozen:
            frozen.search.compared.clear()  # replays compare nothing
        self._run(at)
        self._stamp, self._ran = Stamp(at.model, values=False), 1

    def _second(self, at: Step) -> None:
        before = self._unseen(at.x.device)
        self._run(at)
        self._ran = 2
        if not self._stamp.same():
            self._leave("a step changes the model beyond its tensors")
        elif self._unseen(at.x.device) != before:
            self._leave("a step draws random numbers on the CPU, or makes a model")

    def _unseen(self, device: torch.device) -> list[Hashable]:
        """Return what a graph would not move: generators of the CPU, and which copies of models there are."""
        drawn = [] if device.type == "cpu" else [bytes(torch.get_rng_state().tolist())]
        copies = frozenset(map(id, self._followers.frozen))
        return [random.getstate(), repr(np.random.get_state()), copies, *drawn]

    def _third(self, at: Step) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=at.x.device)
        self._at = replace(
            at, x=at.x.clone(), y=at.y.clone(), ids=at.ids.clone(), check=partial(_note, self._loss)
        )
        try:
            with _graphs.current(at.x.device), stepping():
                self._graph = _graphs.capture(partial(self._run, self._at, captured=True))
        except InputError:  # on any path
            raise
        except Exception as error:  # what a capture does not allow raises anything
            self._leave(first_line(error))
            self._mend()
            self._run(at)
        else:
            self._ran = 3
            self._replay(at)

    def _replay(self, at: Step) -> None:
        if self._graph is None or not self._stamp.same():
            self._leave("the model changes between steps")
            return self._run(at)
        for held, values in ((self._at.x, at.x), (self._at.y, at.y), (self._at.ids, at.ids)):
            held.copy_(values, non_blocking=True)
        with _graphs.current(at.x.device):
            self._graph()
        at.check(self._loss)

    def _leave(self, why: str) -> None:
        """Run all further steps as they are."""
        self._ran, self._graph = 4, None
        self._refuse(why)

    def _mend(self) -> None:
        """Capture what can be: torch's generator stays in a capture that failed until one succeeds."""

        def write() -> None:
            self._loss.zero_()

        with suppress(Exception), _graphs.current(self._loss.device):
            _graphs.capture(write)
