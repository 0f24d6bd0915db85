"""The networks of the study: what each is, how it is trained, and the folder in which it lies."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv import rng
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.studies.goodfellow2014.settings import Settings
from fastadv.studies.study import Watch, trained
from fastadv.train.report import best
from fastadv.train.schedules import SCHEDULES

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
CHECKPOINT_EVERY = 200


@dataclass(frozen=True)
class Plan:
    """One network: the model by name, how it is trained, and whether training stops early.

    Networks of the same number have the same seed, so that they differ in their training alone.
    """

    model: str
    recipe: Any
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=lambda: MAXOUT)
    early: bool = False
    number: int = 0


@dataclass(frozen=True)
class Beginning:
    """A schedule that is left when this share of it is done."""

    schedule: str
    share: float

    def __call__(self, done: float) -> float:
        return SCHEDULES[self.schedule](self.share * done)


def plans(settings: Settings) -> dict[str, Plan]:
    """Return every network of the study by name."""
    threat, epochs, shallow = settings.threat, settings.epochs, settings.shallow_epochs
    standard, likelihood = fa.train.Standard(), fa.train.Standard(loss="bce")
    units, large = {"units": settings.units}, {"units": settings.large_units}
    maxout = partial(Plan, "maxout", epochs=epochs, options=units)
    found = {
        "softmax": Plan("softmax", standard, shallow, training=SHALLOW),
        "rbf": Plan("rbf", likelihood, shallow, training=SHALLOW | {"learning_rate": 0.01}),
        "quadratic": Plan("quadratic", standard, shallow, units, SHALLOW),
        "maxout": maxout(standard),
        "sigmoids": Plan("sigmoids", likelihood, epochs, units),
        "adversarial": maxout(fa.train.FGSMTraining(threat)),
        "noise_sign": maxout(fa.train.InputNoise(threat, "sign")),
        "noise_uniform": maxout(fa.train.InputNoise(threat, "uniform")),
        "rubbish": maxout(fa.train.RubbishTraining()),
        "hidden_first": maxout(fa.train.HiddenFGSM("hidden.1", settings.radius)),
        "hidden_last": maxout(fa.train.HiddenFGSM("linear", settings.radius)),
        "large": Plan("maxout", standard, settings.large_epochs, large),
    }
    for coefficient in settings.l1:
        found[f"l1_{coefficient:g}"] = maxout(fa.train.WeightDecayL1(coefficient))
    for number in range(1, settings.members):
        found[f"{MEMBER}{number}"] = maxout(standard, epochs=settings.member_epochs, number=number)
    for number in range(settings.seeds):
        found[f"{LARGE}-{number}" if number else LARGE] = Plan(
            "maxout", fa.train.FGSMTraining(threat), settings.large_epochs, large, early=True, number=number
        )
    return found


class Nets:
    """The networks by name, in eval mode; one is trained when it is first asked for.

    Each has a folder, in which training that was stopped goes on, and a trained one is found again.
    """

    def __init__(
        self, settings: Settings, train_set: ImageSet, folder: Path, watch: Watch, device: torch.device | None
    ) -> None:
        if settings.validation >= len(train_set):
            raise InputError(
                f"validation: expected fewer than the {len(train_set)} training images, got "
                f"{settings.validation}; lower it, or take more images"
            )
        self.settings, self.train_set, self.folder, self.device = settings, train_set, folder, device
        self.plans, self.watch = plans(settings), watch
        self._trained: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name == ENSEMBLE:  # the maxout network and its sisters, whose probabilities are averaged
            members = ["maxout", *(name for name in self.plans if name.startswith(MEMBER))]
            return fa.models.Ensemble([self[member] for member in members]).eval()
        if name not in self._trained:
            plan = self.plans[name]
            train = self._stopped_early if plan.early else self._train
            self._trained[name] = train(name, plan, self.folder / name, self.train_set, plan.epochs)
        return self._trained[name]

    def told(self) -> dict[str, dict[str, Any]]:
        """Return the epochs, the seconds of training and the reason to stop of each network asked for."""
        found = {}
        for name in self._trained:
            past, search = fa.train.reports(self.folder / name), self._search(name)
            searched = fa.train.reports(search) if self.plans[name].early else []
            least = best(searched)
            why = least and f"least adversarial error on held-out images: {1 - least.lowest:.1%}"
            seconds = sum(report.seconds for report in past + searched)
            found[name] = {"epochs": len(past), "seconds": seconds, "stopped": why}
        return found

    def _stopped_early(self, name: str, plan: Plan, folder: Path, images: ImageSet, epochs: int) -> nn.Module:
        """Train until the adversarial error on held-out images says, and again on all for that long."""
        everything, kept = torch.arange(len(images)), len(images) - self.settings.validation
        self._train(
            f"{name}, to find when to stop", plan, self._search(name), images.subset(everything[:kept]),
            epochs,
            measuring=fa.train.Measuring(validation_set=images.subset(everything[kept:])),
            ending=fa.train.Ending(patience=self.settings.patience),
            test_attacks={"FGSM": partial(fa.attacks.fgsm, threat=self.settings.threat, loss="ce")},
        )  # fmt: skip
        top = best(fa.train.reports(self._search(name)))
        assert top is not None
        whole = plan.training["optimization"]
        begun = replace(whole, schedule=Beginning(whole.schedule, top.epoch / epochs))
        return self._train(name, plan, folder, images, top.epoch, optimization=begun)

    def _search(self, name: str) -> Path:
        return self.folder / f"{name}-search"

    def _train(
        self, what: str, plan: Plan, folder: Path, images: ImageSet, epochs: int, **more: Any
    ) -> nn.Module:
        seed = rng.derive(self.settings.seed, "net", plan.number)
        precision = self.settings.precision if plan.model == "maxout" else "fp32"
        return trained(
            plan.model, images, plan.recipe, folder, seed=seed, options=plan.options, epochs=epochs,
            device=self.device, progress=partial(self.watch, f"training {what}"),
            execution=fa.train.Execution(precision=precision, checkpoint_every=CHECKPOINT_EVERY),
            **{**plan.training, **more},
        )  # fmt: skip
