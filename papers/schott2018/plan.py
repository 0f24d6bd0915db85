"""What runs: the attacks of the paper and today's best, on every model, in every norm; what was published.

A method is an attack with its arguments; a cell is a method on a model. published.csv has the curves of
figure 2 and ACCURACIES those at the thresholds, from github.com/jonasrauber/analysis-by-synthesis (commit
1b2feb7), figures/*_accuracy_distortion_curves.pickle; distances are rounded to six digits here.
"""

import csv
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

from torch import nn

import fastadv as fa
from fastadv.threat import THREATS
from papers.study import some_of

SOURCE = "Schott et al. 2018, figure 2, from github.com/jonasrauber/analysis-by-synthesis"
THRESHOLDS = {"l2": 1.5, "linf": 0.3, "l0": 12.0}  # at which the paper compares accuracies
TITLES = {  # as the paper calls the models
    "cnn": "CNN",
    "binary_cnn": "Binary CNN",
    "nearest_neighbor": "Nearest Neighbor",
    "madry": "Madry et al.",
    "binary_abs": "Binary ABS",
    "abs": "ABS",
}
MODELS, NORMS = tuple(TITLES), tuple(THRESHOLDS)
ACCURACIES = {
    "l2": (0.08, 0.03, 0.5276, 0.35, 0.39, 0.7993),
    "linf": (0.0, 0.63, 0.2156, 0.8714, 0.77, 0.08),
    "l0": (0.19, 0.38, 0.34, 0.0, 0.77, 0.69),
}


class Published(NamedTuple):
    """A published curve: accuracy (from 0 to 1) at each distance, and the accuracy at the threshold."""

    distance: tuple[float, ...]
    accuracy: tuple[float, ...]
    at_threshold: float

    @property
    def median(self) -> float:
        """The distance at which half of the images are broken."""
        return next(d for d, share in zip(self.distance, self.accuracy, strict=True) if share <= 0.5)


@cache
def published() -> dict[tuple[str, str], Published]:
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    text = (files("papers.schott2018") / "published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        point = float(row["distance"]), float(row["accuracy_percent"]) / 100
        points.setdefault((row["norm"], row["model"]), []).append(point)
    found = {}
    for (norm, model), curve in points.items():
        distance, accuracy = zip(*curve, strict=True)
        found[norm, model] = Published(distance, accuracy, ACCURACIES[norm][MODELS.index(model)])
    return found


Attack = Callable[..., fa.attacks.AttackResult]
SYNTHESES = ("binary_abs", "abs")
DEAR = ("nearest_neighbor", *SYNTHESES)


@dataclass(frozen=True, eq=False)
class Method:
    """An attack of the study."""

    name: str  # as the tables call it
    norm: str
    attack: str  # its name in `fastadv.attacks`
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dear: Mapping[str, Any] = field(default_factory=dict)  # arguments on models whose passes cost more
    wrap: str = ""  # "minimum_radius" or "transfer", where the attack does not look for the nearest itself
    today: bool = False  # whether the paper did not have it
    only: tuple[str, ...] = MODELS
    options: Mapping[str, Any] = field(default_factory=dict)  # of ABS's inference during the search
    length: float = 0.0  # of all steps together, in radii; 0: the attack's own


# The paper runs gradient attacks on nearest neighbors and on ABS with numerical gradients, 1,568 passes each.
# Here both have exact ones: the direction to the nearest image of each class, and by the envelope theorem the
# gradient of the loss at the best latents. Binarized models pass gradients straight through the threshold.
# The logits of both are minus distances, so small on ABS that cross-entropy pulls towards all classes at
# once: there the margin is the loss.
CE = {"loss": "ce"}
BIM = {"steps": 10, **CE}
MARGIN = {"loss": "margin"}
RADIUS = "minimum_radius"
# BIM goes 1.25 radii in all, as its paper does. On Binary ABS in L2 it finds nearer points where it goes one.
ONE_RADIUS = partial(
    Method, "BIM of one radius", attack="bim", arguments=BIM, dear=MARGIN, wrap=RADIUS, length=1.0
)
TRANSFER = partial(Method, "Transfer", attack="bim", arguments=BIM, wrap="transfer")
NOISE = {"levels": 100, "repetitions": 10}
FEW_LEVELS = {"levels": 20, "repetitions": 3}
MANY, FEW = {"steps": 500}, {"steps": 50}

PAPER = (
    TRANSFER(norm="l2"),
    Method("Gaussian noise", "l2", "gaussian_noise", NOISE, FEW_LEVELS),
    Method("Boundary", "l2", "boundary", {"queries": 2000}, {"queries": 200}),
    Method("Pointwise", "l2", "pointwise", {"queries": 1000}, {"queries": 250}),
    Method("FGM", "l2", "fgsm", CE, MARGIN, wrap=RADIUS),
    Method("DeepFool", "l2", "deepfool", {"steps": 50}),
    Method("BIM", "l2", "bim", BIM, MARGIN, wrap=RADIUS),
    ONE_RADIUS(norm="l2"),
    Method("Latent descent", "l2", "latent_descent", {"steps": 200}, only=SYNTHESES),
    TRANSFER(norm="linf"),
    Method("FGSM", "linf", "fgsm", CE, MARGIN, wrap=RADIUS),
    Method("DeepFool", "linf", "deepfool", {"steps": 50}),
    Method("BIM", "linf", "bim", BIM, MARGIN, wrap=RADIUS),
    ONE_RADIUS(norm="linf"),
    Method("MIM", "linf", "mim", BIM, MARGIN, wrap=RADIUS),
    Method("Salt & pepper", "l0", "salt_and_pepper", NOISE, FEW_LEVELS),
    Method("Pointwise", "l0", "pointwise", {"queries": 4000}, {"queries": 300}),
)

STRONG = partial(Method, arguments=MANY, dear=FEW, today=True)
SEARCHED = partial(STRONG, "APGD", attack="apgd", arguments={"steps": 50, **CE}, wrap=RADIUS)
EIGHT = {"steps": 8, **MARGIN}
UNROLLED = partial(Method, "FMN, unrolled", attack="fmn", arguments={"steps": 25}, today=True, only=SYNTHESES)
TODAY = (
    STRONG("DDN", "l2", "ddn", dear={**FEW, **MARGIN}),
    *(STRONG("FMN", norm, "fmn") for norm in ("l2", "linf", "l0")),
    *(STRONG("PDPGD", norm, "pdpgd") for norm in ("l2", "linf", "l0")),
    *(SEARCHED(norm=norm, dear=EIGHT) for norm in ("l2", "linf")),
    STRONG("sigma-zero", "l0", "sigma_zero", dear={"steps": 100}),
    *(UNROLLED(norm=norm, options={"input_grad": "unrolled"}) for norm in ("l2", "linf")),
)

METHODS = PAPER + TODAY


@dataclass(frozen=True, eq=False)
class Cell:
    model: str
    method: Method

    @property
    def name(self) -> str:
        return f"{self.model} {self.method.norm} {self.method.name}"

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.method.arguments, **(self.method.dear if self.model in DEAR else {})}

    def describe(self) -> dict[str, Any]:
        """Return what decides its results, but for the model and the images, as JSON."""
        return {
            "norm": self.method.norm,
            "attack": self.method.attack,
            "arguments": self.arguments,
            "wrap": self.method.wrap,
            "options": dict(self.method.options),
            "length": self.method.length,
        }

    @property
    def transfers(self) -> bool:
        return self.method.wrap == "transfer"

    def attack(self, seed: int, substitute: nn.Module | None) -> Attack:
        run = getattr(fa.attacks, self.method.attack)
        threat = THREATS[self.method.norm](math.inf)
        given = self.arguments | _seed(run, seed)
        if self.method.length:
            run = partial(_of_length, run, self.method.length)
        if not self.method.wrap:
            return partial(run, threat=threat, **given)
        wrap = getattr(fa.attacks, self.method.wrap)
        around = _seed(wrap, seed) | ({"source": substitute} if self.transfers else {})
        return partial(wrap, threat=threat, attack=partial(run, **given), **around)


def _of_length(
    run: Attack, length: float, *given: Any, threat: fa.Threat, steps: int, **arguments: Any
) -> fa.attacks.AttackResult:
    """Run an attack whose steps are `length` radii in all."""
    step_size = threat.default_step_size(steps, length)
    return run(*given, threat=threat, steps=steps, step_size=step_size, **arguments)


def _seed(run: Callable[..., Any], seed: int) -> dict[str, Any]:
    return {"seed": seed} if "seed" in inspect.signature(run).parameters else {}


@dataclass(frozen=True)
class Settings:
    samples: int = 100
    models: tuple[str, ...] = MODELS
    norms: tuple[str, ...] = NORMS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("models", MODELS), ("norms", NORMS)):
            some_of(name, getattr(self, name), known)

    def cells(self) -> list[Cell]:
        chosen = [method for method in METHODS if method.norm in self.norms]
        return [Cell(model, method) for model in self.models for method in chosen if model in method.only]
