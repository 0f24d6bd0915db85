"""What the study depends on, its sizes, and every network: what it is and how it is trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import fastadv as fa
from papers.goodfellow2014 import recipes
from papers.study import NO_BOX

ENSEMBLE, MEMBER, LARGE = "ensemble", "member-", "large_adversarial"
# pylearn2's recipe for maxout on MNIST, with one momentum and a cosine in place of its slow changes
MAXOUT: dict[str, Any] = {
    "learning_rate": 0.1, "batch_size": 100,
    "optimization": fa.train.Optimization(momentum=0.7, weight_decay=0.0, schedule="cosine", max_norm=1.9365),
}  # fmt: skip
SHALLOW: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 100,
    "optimization": fa.train.Optimization(weight_decay=0.0, schedule="cosine"),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All that the study depends on. The defaults are for two cores."""

    radius: float = 0.25  # of FGSM, L-infinity, images in [0, 1]
    units: int = 240  # in a layer of the maxout networks
    large_units: int = 1600  # in a layer of the large maxout networks
    members: int = 12  # of the ensemble
    epochs: int = 40  # of each network
    member_epochs: int = 15  # of the other members of the ensemble
    large_epochs: int = 25  # the most epochs of the large networks, whose training stops early
    shallow_epochs: int = 20  # of networks with one layer
    patience: int = 10  # epochs without a lower adversarial error after which training stops early
    validation: int = 10_000  # held-out images that measure this error
    seeds: int = 1  # large networks to train adversarially, each with its own seed
    tested: int | None = None  # use this many test images only; None uses all
    rubbish: int = 10_000  # images of Gaussian noise
    precision: str = "bf16"  # of the training of maxout networks
    seed: int = 0  # of everything random
    l1: tuple[float, ...] = (0.0025, 0.00025)  # coefficients of L1 decay

    @property
    def threat(self) -> fa.Linf:
        """The paper's: it clips nothing."""
        return fa.Linf(self.radius, box=NO_BOX)

    @property
    def boxed(self) -> fa.Linf:
        """The same within the box of images."""
        return fa.Linf(self.radius)


# tiny: every part in seconds, the figures mean nothing; cpu: two cores; paper: a GPU, five large networks
SCALES = {
    "tiny": Settings(
        units=8, large_units=12, members=2, epochs=1, member_epochs=1, large_epochs=2, shallow_epochs=1,
        patience=1, validation=60, tested=100, rubbish=50, precision="fp32",
    ),
    "cpu": Settings(),
    "paper": Settings(
        epochs=100, member_epochs=100, large_epochs=200, patience=100, shallow_epochs=50, seeds=5
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One network; those of the same number have the same seed, and differ in their training alone."""

    model: str
    recipe: Any
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=lambda: MAXOUT)
    early: bool = False
    number: int = 0


@dataclass(frozen=True)
class Beginning:
    """The schedule "cosine", left when this share of it is done."""

    schedule: str
    share: float

    def __call__(self, done: float) -> float:
        return (1 + math.cos(math.pi * self.share * done)) / 2


Beginning.__module__ = "fastadv.studies.goodfellow2014.plan"  # as the run folders of `fastadv study` know it


def plans(settings: Settings) -> dict[str, Plan]:
    threat, epochs, shallow = settings.threat, settings.epochs, settings.shallow_epochs
    standard, likelihood = fa.train.Standard(), fa.train.Standard(loss="bce")
    units, large = {"units": settings.units}, {"units": settings.large_units}
    maxout = partial(Plan, "Maxout", epochs=epochs, options=units)
    found = {
        "softmax": Plan("softmax", standard, shallow, training=SHALLOW),
        "rbf": Plan("RBF", likelihood, shallow, training=SHALLOW | {"learning_rate": 0.01}),
        "quadratic": Plan("Quadratic", standard, shallow, units, SHALLOW),
        "maxout": maxout(standard),
        "sigmoids": Plan("maxout_sigmoids", likelihood, epochs, units),
        "adversarial": maxout(fa.train.FGSMTraining(threat)),
        "noise_sign": maxout(recipes.InputNoise(threat, "sign")),
        "noise_uniform": maxout(recipes.InputNoise(threat, "uniform")),
        "rubbish": maxout(recipes.RubbishTraining()),
        "hidden_first": maxout(recipes.HiddenFGSM("hidden.1", settings.radius)),
        "hidden_last": maxout(recipes.HiddenFGSM("linear", settings.radius)),
        "large": Plan("Maxout", standard, settings.large_epochs, large),
    }
    for coefficient in settings.l1:
        found[f"l1_{coefficient:g}"] = maxout(recipes.WeightDecayL1(coefficient))
    for number in range(1, settings.members):
        found[f"{MEMBER}{number}"] = maxout(standard, epochs=settings.member_epochs, number=number)
    for number in range(settings.seeds):
        found[f"{LARGE}-{number}" if number else LARGE] = Plan(
            "Maxout", fa.train.FGSMTraining(threat), settings.large_epochs, large, early=True, number=number
        )
    return found
