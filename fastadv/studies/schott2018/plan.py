"""What runs: every attack of the paper and today's best, on every model, in every norm.

A method is an attack with its arguments; a cell is a method on a model.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

import fastadv as fa
from fastadv._checks import check_count, check_seed
from fastadv.errors import InputError
from fastadv.studies.schott2018.published import THRESHOLDS, TITLES
from fastadv.threat import THREATS

MODELS, NORMS = tuple(TITLES), tuple(THRESHOLDS)
SYNTHESES = ("binary_abs", "abs")
DEAR = ("nearest_neighbor", *SYNTHESES)
MILLISECONDS = {
    "cnn": (0.1, 0.3),
    "binary_cnn": (0.1, 0.3),
    "nearest_neighbor": (0.7, 0.7),
    "madry": (0.03, 0.08),
    "binary_abs": (4.0, 4.0),
    "abs": (4.5, 4.5),
}
"""What an image takes on two cores: for logits, and for a gradient. ABS with the options of a search."""
NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Method:
    """An attack of the study.

    name       as the tables call it
    attack     its name in `fastadv.attacks`
    arguments  for it; `dear` replaces some of them on ABS and nearest neighbors, where a pass costs more
    passes     about as many for each image; `dear_passes` on those
    gradient   whether these passes are forward and back
    wrap       what turns it into an attack that looks for the nearest adversarial: "minimum_radius", or
               "transfer" from the authors' substitute; empty where it is one already
    around     arguments of `wrap`
    today      whether the paper did not have it
    only       the models it is for
    options    of ABS's inference during the search
    probe      with which the gradient is estimated by central differences; 0: it is the model's own
    extra      only run where it is named
    """

    name: str
    norm: str
    attack: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dear: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 100
    dear_passes: int | None = None
    gradient: bool = True
    wrap: str = ""
    around: Mapping[str, Any] = field(default_factory=dict)
    today: bool = False
    only: tuple[str, ...] = MODELS
    options: Mapping[str, Any] = field(default_factory=dict)
    probe: float = 0.0
    extra: bool = False


@dataclass(frozen=True, eq=False)
class Cell:
    """A method on a model."""

    model: str
    method: Method

    @property
    def name(self) -> str:
        """Such as `abs l2 DeepFool`."""
        return f"{self.model} {self.method.norm} {self.method.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the attack, on this model."""
        return {**self.method.arguments, **(self.method.dear if self.model in DEAR else NONE)}

    @property
    def seconds(self) -> float:
        """About how long it takes for each image, on two cores."""
        dear = self.model in DEAR and self.method.dear_passes is not None
        passes = self.method.dear_passes if dear else self.method.passes
        assert passes is not None
        unrolled = 3.0 if self.method.options else 1.0
        return passes * unrolled * MILLISECONDS[self.model][self.method.gradient] / 1000

    def describe(self) -> dict[str, Any]:
        """Return what decides its results, but for the model and the images, as JSON."""
        return {
            "norm": self.method.norm,
            "attack": self.method.attack,
            "arguments": self.arguments,
            "wrap": self.method.wrap,
            "around": dict(self.method.around),
            "options": dict(self.method.options),
            "probe": self.method.probe,
        }

    @property
    def transfers(self) -> bool:
        """Whether the attack is made on a substitute."""
        return self.method.wrap == "transfer"

    def attack(self, seed: int, substitute: nn.Module | None) -> Callable[..., fa.attacks.AttackResult]:
        """Return the attack as (model, x, y, ids=ids) -> AttackResult."""
        run = getattr(fa.attacks, self.method.attack)
        threat = THREATS[self.method.norm](math.inf)
        given = self.arguments | _seed(run, seed)
        if not self.method.wrap:
            return partial(run, threat=threat, **given)
        wrap = getattr(fa.attacks, self.method.wrap)
        around = {**self.method.around, **_seed(wrap, seed)}
        if self.transfers:
            around["source"] = substitute
        return partial(wrap, threat=threat, attack=partial(run, **given), **around)


def _seed(run: Callable[..., Any], seed: int) -> dict[str, Any]:
    return {"seed": seed} if "seed" in inspect.signature(run).parameters else {}


def choose(names: Iterable[str] | None, methods: Iterable[Method]) -> tuple[Method, ...]:
    """Return the methods of these names, or without names all but the extra ones; InputError for an
    unknown name.
    """
    methods = tuple(methods)
    if names is None:
        return tuple(method for method in methods if not method.extra)
    wanted = {name.casefold() for name in names}
    unknown = wanted - {method.name.casefold() for method in methods}
    if unknown:
        known = dict.fromkeys(method.name for method in methods)
        raise InputError(f"attacks: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return tuple(method for method in methods if method.name.casefold() in wanted)


@dataclass(frozen=True)
class Settings:
    """What to run; `attacks` None means all, without the extra ones."""

    samples: int = 100
    models: tuple[str, ...] = MODELS
    norms: tuple[str, ...] = NORMS
    attacks: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("samples", self.samples, 1)
        check_seed(self.seed)
        for name, known in (("models", MODELS), ("norms", NORMS)):
            given = getattr(self, name)
            unknown = [value for value in given if value not in known]
            if unknown or not given:
                raise InputError(
                    f"{name}: expected some of {', '.join(known)}, got {', '.join(given) or 'none'}"
                )

    def cells(self, methods: Iterable[Method]) -> list[Cell]:
        """Return the cells, model by model."""
        chosen = [method for method in choose(self.attacks, methods) if method.norm in self.norms]
        return [Cell(model, method) for model in self.models for method in chosen if model in method.only]
