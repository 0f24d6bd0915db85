"""Training steps as CUDA graphs: search, passes, clipping and the optimizer in one launch."""

from collections.abc import Callable, Hashable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv._torch import has_hooks
from fastadv.engine.capture import drawn, kind_of, obstacle, stepping
from fastadv.engine.stamp import is_seen
from fastadv.ops import _graphs
from fastadv.rng import CPU
from fastadv.train.optim import DeviceRates
from fastadv.train.recipes import OwnStep, Recipe, Step
from fastadv.train.recipes._followers import Followers
from fastadv.train.recipes.base import loss_of, owns_step

LEAST = 16  # full steps of an epoch, for fewer of which a capture takes longer than it saves


def is_fixed(recipe: Recipe | OwnStep) -> bool:
    """Return whether a recipe does the same in every step, as those of this library do without a function."""
    inner = getattr(recipe, "recipe", None)
    losses = (getattr(recipe, name, None) for name in ("loss", "attack_loss"))
    ours = type(recipe).__module__.startswith("fastadv.") and not any(map(callable, losses))
    return ours and (inner is None or is_fixed(inner))


def can_follow(model: nn.Module) -> bool:
    """Return whether a graph of the model holds as long as a look at it tells no change."""
    return kind_of(model) is not None and is_seen(model) and not any(map(has_hooks, model.parameters()))


def run(recipe: Recipe | OwnStep, rates: DeviceRates | None, at: Step, captured: bool = False) -> None:
    """Train on one batch: by the recipe's own step, or by one step of the optimizer on its loss."""
    with nullcontext() if rates is None else rates.in_use(captured):
        if owns_step(recipe):
            return at.check(recipe.step(at))
        with at.autocast():
            loss = loss_of(cast(Recipe, recipe))(at.model, at.x, at.y, ids=at.ids, seed=at.seed)()
        at.backward(loss)
        at.descend()


def _note(noted: Tensor, loss: Tensor) -> None:
    noted.copy_(loss.detach())


class Captured:
    """Takes the full steps of an epoch, from a CUDA graph where that can be."""

    # The first step runs as it is, the second is watched, the third captured and replayed. A graph reads
    # weights, buffers and rates in place; seeds of the recipe are numbers in it, so each epoch has its own.

    def __init__(self, run: Callable[..., None], followers: Followers, refuse: Callable[[str], None]) -> None:
        self._run, self._followers, self._refuse = run, followers, refuse
        self._taken, self._refused = 0, False
        self._replay: Callable[[], None] | None = None

    def take(self, at: Step) -> None:
        if self._refused:
            self._run(at)
        elif self._taken > 1:
            self._launch(at)
        else:
            for frozen in self._followers.frozen if self._taken == 0 else ():
                frozen.compare_anew()  # replays compare nothing
            before = self._unseen(at.x.device)
            self._run(at)
            if self._taken == 0:
                self._kind = kind_of(at.model)
            elif kind_of(at.model) != self._kind:
                self._leave("a step changes the model beyond its tensors")
            elif self._unseen(at.x.device) != before:
                self._leave("a step draws random numbers on the CPU, or makes a model")
        self._taken += 1

    def _unseen(self, device: torch.device) -> list[Hashable]:
        """Return what a graph would not move: generators of the CPU, and which copies of models there are."""
        copies = frozenset(map(id, self._followers.frozen))
        return [copies, *drawn([] if device.type == "cpu" else [CPU])]

    def _launch(self, at: Step) -> None:
        if self._replay is None:
            self._capture(at)
        if not self._refused and kind_of(at.model) != self._kind:
            self._leave("the model changes between steps")
        if self._replay is None:
            return self._run(at)
        for static, values in ((self._at.x, at.x), (self._at.y, at.y), (self._at.ids, at.ids)):
            static.copy_(values, non_blocking=True)
        with _graphs.current(at.x.device):
            self._replay()
        at.check(self._loss)

    def _capture(self, at: Step) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=at.x.device)
        self._at = replace(
            at, x=at.x.clone(), y=at.y.clone(), ids=at.ids.clone(), check=partial(_note, self._loss)
        )

        def capture() -> None:
            self._replay = _graphs.capture(partial(self._run, self._at, captured=True))

        with _graphs.current(at.x.device):
            with stepping():
                why = obstacle(capture)
            if why is not None:
                self._leave(why)
                # Another capture mends torch's generator, which stays in one that failed
                with suppress(Exception):
                    _graphs.capture(partial(_note, self._loss, torch.ones_like(self._loss)))

    def _leave(self, why: str) -> None:
        """Run all further steps as they are."""
        self._refused, self._replay = True, None
        self._refuse(why)
