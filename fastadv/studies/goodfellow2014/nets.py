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
from fastadv.studies.study import Watch, unwatched
from fastadv.train.optim import SCHEDULES
from fastadv.train.report import EpochReport, best

MEMBER, LARGE = "member-", "large_adversarial"
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
    adversarial = fa.train.FGSMTraining(threat)
    units = {"units": settings.units}
    large = {"units": settings.large_units}
    found = {
        "softmax": Plan("softmax", standard, shallow, training=SHALLOW),
        "rbf": Plan("rbf", likelihood, shallow, training=SHALLOW | {"learning_rate": 0.01}),
        "quadratic": Plan("quadratic", standard, shallow, units, SHALLOW),
        "maxout": Plan("maxout", standard, epochs, units),
        "sigmoids": Plan("sigmoids", likelihood, epochs, units),
        "adversarial": Plan("maxout", adversarial, epochs, units),
        "noise_sign": Plan("maxout", fa.train.InputNoise(threat, "sign"), epochs, units),
        "noise_uniform": Plan("maxout", fa.train.InputNoise(threat, "uniform"), epochs, units),
        "rubbish": Plan("maxout", fa.train.RubbishTraining(), epochs, units),
        "hidden_first": Plan("maxout", fa.train.HiddenFGSM("hidden.1", settings.radius), epochs, units),
        "hidden_last": Plan("maxout", fa.train.HiddenFGSM("linear", settings.radius), epochs, units),
        "large": Plan("maxout", standard, settings.large_epochs, large),
    }
    for coefficient in settings.l1:
        found[f"l1_{coefficient:g}"] = Plan("maxout", fa.train.WeightDecayL1(coefficient), epochs, units)
    for number in range(1, settings.members):
        found[f"{MEMBER}{number}"] = Plan("maxout", standard, settings.member_epochs, units, number=number)
    for number in range(settings.seeds):
        name = f"{LARGE}-{number}" if number else LARGE
        found[name] = Plan("maxout", adversarial, settings.large_epochs, large, early=True, number=number)
    return found


class Nets:
    """The networks by name, in eval mode; one is trained when it is first asked for.

    Each has a folder, in which training that was stopped goes on, and a trained one is found again.
    """

    def __init__(
        self,
        settings: Settings,
        train_set: ImageSet,
        folder: Path,
        watch: Watch = unwatched,
        device: torch.device | None = None,
    ) -> None:
        if settings.validation >= len(train_set):
            raise InputError(
                f"validation: expected fewer than the {len(train_set)} training images, got "
                f"{settings.validation}; lower it, or take more images"
            )
        self.settings, self.train_set, self.folder, self.device = settings, train_set, folder, device
        self.plans, self._watch = plans(settings), watch
        self._trained: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._trained:
            plan = self.plans[name]
            self._trained[name] = (self._early if plan.early else self._whole)(name, plan)
        return self._trained[name]

    def reports(self, name: str) -> list[EpochReport]:
        """Return that of the training of the network as it is."""
        return fa.train.reports(self.folder / name)

    def chosen(self, name: str) -> EpochReport | None:
        """Return the epoch at which training was stopped, as the held-out images judged it; None without
        any.
        """
        return best(fa.train.reports(self._search(name))) if self.plans[name].early else None

    def seconds(self, name: str) -> float:
        """Return that of all training that the network took."""
        past = self.reports(name) + (fa.train.reports(self._search(name)) if self.plans[name].early else [])
        return sum(report.seconds for report in past)

    def told(self) -> dict[str, dict[str, Any]]:
        """Return that of each network that was asked for: its epochs, the seconds of training, and why it
        stopped.
        """
        return {
            name: {
                "epochs": len(self.reports(name)),
                "seconds": self.seconds(name),
                "stopped": self._stopped(name),
            }
            for name in self._trained
        }

    def ensemble(self) -> fa.models.Ensemble:
        """Return the maxout network and its sisters, whose probabilities are averaged."""
        sisters = [name for name in self.plans if name.startswith(MEMBER)]
        return fa.models.Ensemble([self["maxout"], *(self[name] for name in sisters)]).eval()

    def _whole(self, name: str, plan: Plan) -> nn.Module:
        return self._train(name, plan, self.folder / name, self.train_set, plan.epochs)

    def _early(self, name: str, plan: Plan) -> nn.Module:
        """Stopped by the adversarial error on held-out images, and trained again on all for that long."""
        threat, kept = self.settings.threat, len(self.train_set) - self.settings.validation
        everything = torch.arange(len(self.train_set))
        self._train(
            f"{name}, to find when to stop", plan, self._search(name),
            self.train_set.subset(everything[:kept]), plan.epochs,
            measuring=fa.train.Measuring(validation_set=self.train_set.subset(everything[kept:])),
            ending=fa.train.Ending(patience=self.settings.patience),
            test_attacks={"FGSM": partial(fa.attacks.fgsm, threat=threat)},
        )  # fmt: skip
        top = self.chosen(name)
        assert top is not None
        whole = plan.training["optimization"]
        begun = replace(whole, schedule=Beginning(whole.schedule, top.epoch / plan.epochs))
        return self._train(name, plan, self.folder / name, self.train_set, top.epoch, optimization=begun)

    def _stopped(self, name: str) -> str | None:
        top = self.chosen(name)
        if top is None:
            return None
        return f"least adversarial error on held-out images: {1 - top.lowest:.1%}"

    def _search(self, name: str) -> Path:
        return self.folder / f"{name}-search"

    def _train(
        self, what: str, plan: Plan, folder: Path, images: ImageSet, epochs: int, **more: Any
    ) -> nn.Module:
        seed = rng.derive(self.settings.seed, "net", plan.number)
        model = fa.models.create(
            plan.model, shape=images.shape, classes=images.num_classes, seed=seed, **plan.options
        )
        precision = self.settings.precision if plan.model == "maxout" else "fp32"
        fa.train.fit(
            model, images, plan.recipe, epochs=epochs, run_dir=folder, resume=True, seed=seed,
            device=self.device, progress=partial(self._watch, f"training {what}"),
            execution=fa.train.Execution(precision=precision, checkpoint_every=CHECKPOINT_EVERY),
            **{**plan.training, **more},
        )  # fmt: skip
        return model.eval()
