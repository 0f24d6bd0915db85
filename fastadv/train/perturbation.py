"""One perturbation of many samples: its images, and what it does to a model."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import check_count
from fastadv.attacks import AttackResult, core
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.engine.arguments import check_input
from fastadv.errors import InputError
from fastadv.labels import check_classes
from fastadv.threat import Threat, Through
from fastadv.threat.through import straight


@dataclass(frozen=True, eq=False)
class UniversalResult:
    """One perturbation for all images, which `fastadv.attacks.universal` returns.

    It is an attack, too: `fa.evaluate(model, test_set, {"universal": result})` judges it on other data.

    Attributes:
        parameters: the perturbation, like one image; of a map, its parameters for one image.
        threat: in which it lies.
        criterion: what a success is.
        clean_accuracy: the share of the data that is right without it.
        robust_accuracy: the share of the data that is right with it, too.
        losses: the mean loss of each epoch, at the points where it took its gradients.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        flags: warnings that cast doubt on the result; empty where nothing does.
        targets: the class that was wanted of all samples; None for any wrong class.
    """

    parameters: Tensor = field(repr=False)
    threat: Threat
    criterion: Criterion = WRONG
    clean_accuracy: float = math.nan
    robust_accuracy: float = math.nan
    losses: tuple[float, ...] = field(default=(), repr=False)
    forwards: int = 0
    backwards: int = 0
    flags: tuple[str, ...] = ()
    targets: int | None = field(default=None, repr=False)

    @property
    def success_rate(self) -> float:
        """The share of the samples that are right without it which it turns wrong; NaN where none is."""
        right = self.clean_accuracy
        return (right - self.robust_accuracy) / right if right else math.nan

    def apply(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return x [B, ...] with the perturbation, in the box; a patch lies where `ids` of samples say."""
        x = check_input(x, None)
        t = self.parameters.to(x)
        if isinstance(self.threat, Through):
            return self.threat.image(t.expand(len(x), *t.shape), x, ids)
        return _added(x, t, self.threat)

    @property
    def func(self) -> Any:
        """The attack with what is bound to it, where `fastadv.evaluate` looks for that."""
        criterion = self.criterion if self.targets is None else Towards(self.criterion, self.targets)
        return partial(perturbed, parameters=self.parameters, threat=self.threat, criterion=criterion)

    def __call__(self, model: core.Classifier, x: Tensor, y: Tensor, **options: Any) -> AttackResult:
        if "targets" in options:  # of other samples
            self = replace(self, targets=options.pop("targets"))
        result: AttackResult = self.func(model, x, y, **options)
        return result


def perturbed(
    model: core.Classifier, x: Tensor, y: Tensor, *, parameters: Tensor, threat: Threat,
    criterion: Criterion = WRONG, ids: Tensor | None = None,
) -> AttackResult:  # fmt: skip
    """Judge a perturbation as an attack."""

    def rule(search: core.Search) -> None:
        t = parameters.to(search.x)
        if isinstance(threat, Through):  # of which the search knows parameters alone
            search.decide(t.expand_as(search.x))
        else:
            search.decide(_added(search.x, t, search.threat))

    out = core.run(model, x, y, threat, rule, criterion=criterion, ids=ids)
    return replace(out, attack="universal")


def _added(x: Tensor, t: Tensor, threat: Threat) -> Tensor:
    if x.shape[1:] != t.shape:
        raise InputError(
            f"x: expected samples like the perturbation {tuple(t.shape)}, got {tuple(x.shape[1:])}"
        )
    return threat.project(x + t, x)


def as_map(threat: Threat) -> Through:
    """Return the threat as a map of parameters; of a ball they are what is added to an image."""
    # their gradient is that of the image, also where the box stops it: it leads back into the box
    if isinstance(threat, Through):
        return threat

    def add(x: Tensor, t: Tensor) -> Tensor:
        return straight(threat.project((x + t).detach(), x), t)

    ball = replace(threat, box=(-math.inf, math.inf))
    return Through(add, ball, torch.zeros_like, box=threat.box)


@dataclass(frozen=True, repr=False)
class Towards(Criterion):
    """A success has the one class that is wanted of all samples which are not of it."""

    inside: Criterion
    target: int

    def __repr__(self) -> str:
        return f"the target {self.target}" + ("" if self.inside == WRONG else f", {self.inside!r}")

    def __post_init__(self) -> None:
        check_count("targets", self.target, 0)
        if self.inside.outputs != "classes":
            raise InputError(f"targets: expected None for {self.inside!r}, got {self.target}; leave it out")

    def meant_by(self, model: Any) -> Criterion:
        return replace(self, inside=self.inside.meant_by(model))

    def check(self, outputs: Tensor, y: Tensor, targets: Tensor | None) -> None:
        check_classes("targets", y.new_tensor([self.target]), outputs.shape[1])
        others = y != self.target
        self.inside.check(outputs[others], y[others], self._wanted(y[others]))

    def met(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.inside.met(logits, y, self._wanted(y)) & (y != self.target)

    def right(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.inside.right(logits, y)

    def margin(self, logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        return self.inside.margin(logits, y, self._wanted(y)).where(y != self.target, -1.0)

    def _wanted(self, y: Tensor) -> Tensor:
        return torch.full_like(y, self.target)
