"""Rewrites: what a search copy computes in another way than the model as given."""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fastadv.engine.copying.fold import Folds, Promises, Watch, has_batch_norm, is_scripted
from fastadv.engine.copying.twin import device_of
from fastadv.engine.lens import Lens, Way

Ways = Mapping[Any, Way]  # of functions of torch


class Subject:
    """A model as rewrites judge it, to compute in `dtype`; `exact`: no logit may change by a bit."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None, exact: bool = False) -> None:
        self.model, self.dtype, self.exact = model, dtype, exact

    @cached_property
    def on_cpu(self) -> bool:
        return device_of(self.model) in (None, torch.device("cpu"))

    @cached_property
    def convolves(self) -> bool:
        return has_conv2d(self.model)

    @cached_property
    def normalizes(self) -> bool:
        """Whether it holds a BatchNorm whose reading of tensors can be seen."""
        return has_batch_norm(self.model) and not is_scripted(self.model)


def on_cpu(subject: Subject) -> bool:
    return subject.on_cpu


def may_round(subject: Subject) -> bool:
    """Return whether it runs on the CPU, and logits may change by rounding."""
    return subject.on_cpu and not subject.exact


def has_conv2d(model: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in model.modules())


@dataclass(frozen=True, eq=False)
class Rewrite:
    """One thing that a search copy may compute in another way.

    note: what `Frozen.notes` say once it was used. replace: ways, or what makes them for one model. exact:
    logits stay as they are. needs: what the machine must have, beyond a CPU.
    """

    name: str
    note: str
    applies: Callable[[Subject], bool]
    replace: Ways | Callable[[Subject], Ways] = field(default_factory=dict)
    exact: bool = False
    needs: str = ""

    def ways(self, subject: Subject) -> Ways:
        return self.replace(subject) if callable(self.replace) else self.replace


class Rewriting:
    """The rewrites of one model. It never changes: `without` gives another one."""

    def __init__(self, rewrites: Iterable[Rewrite] = (), subject: Subject | None = None) -> None:
        self._made = {} if subject is None else {each: each.ways(subject) for each in rewrites}
        folded = subject is not None and any(rewrite.name == Folds.name for rewrite in self._made)
        self.folds = Folds(subject.model) if folded and subject is not None else None
        self._arrange()

    def _arrange(self) -> None:
        ways: dict[Any, list[tuple[str, Way]]] = {}
        for rewrite, made in self._made.items():
            for function, way in made.items():
                ways.setdefault(function, []).append((rewrite.name, way))
        self.ways = {function: tuple(found) for function, found in ways.items()}
        self.names = [rewrite.name for rewrite in self._made]
        self.exact = all(rewrite.exact for rewrite in self._made)

    def __bool__(self) -> bool:
        return bool(self.ways) or self.folds is not None

    def without(self, *names: str) -> "Rewriting":
        fewer = copy(self)
        fewer._made = {rewrite: made for rewrite, made in self._made.items() if rewrite.name not in names}
        fewer.folds = None if Folds.name in names else self.folds
        fewer._arrange()
        return fewer

    def lens(self, watch: Watch | None = None, compared: bool = False) -> Lens:
        """Return what one pass is seen through; in one that is watched nothing is folded."""
        reads = watch or (Promises(self.folds) if self.folds is not None else None)
        return Lens(self.ways, reads, compared)

    def notes(self, used: Iterable[str]) -> list[str]:
        names = set(used)
        return [rewrite.note for rewrite in self._made if rewrite.name in names and rewrite.note]
