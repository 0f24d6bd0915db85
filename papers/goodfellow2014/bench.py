"""The networks of the study, trained when they are first asked for, and what they answer on images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from fastadv.data import ImageSet
from papers.goodfellow2014 import models
from papers.goodfellow2014.models import Ensemble
from papers.goodfellow2014.plan import ENSEMBLE, MEMBER, Beginning, Plan, Settings, plans
from papers.study import CPU, Watch, trained, unit

BATCH_SIZE, CHECKPOINT_EVERY = 500, 200
STEPS, STRONGLY_TESTED = 40, 1000  # of PGD, and images
LOSS = {"rbf": "bce", "sigmoids": "bce"}  # of networks that give each class a probability of its own
Paper = tuple[float | None, float | None]


class Nets:
    """The networks by name, in eval mode; one is trained when it is first asked for."""

    def __init__(
        self, settings: Settings, train_set: ImageSet, folder: Path, watch: Watch, device: torch.device | None
    ) -> None:
        self.settings, self.train_set, self.folder, self.device = settings, train_set, folder, device
        self.plans, self.watch = plans(settings), watch
        self._trained: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name == ENSEMBLE:  # the maxout network and its sisters, whose probabilities are averaged
            members = ["maxout", *(name for name in self.plans if name.startswith(MEMBER))]
            return Ensemble([self[member] for member in members]).eval()
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
            least = f"{1 - best(searched).lowest:.1%}" if searched else ""
            why = f"least adversarial error on held-out images: {least}" if searched else None
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
        whole = plan.training["optimization"]
        begun = replace(whole, schedule=Beginning(whole.schedule, top.epoch / epochs))
        return self._train(name, plan, folder, images, top.epoch, optimization=begun)

    def _search(self, name: str) -> Path:
        return self.folder / f"{name}-search"

    def _train(
        self, what: str, plan: Plan, folder: Path, images: ImageSet, epochs: int, **more: Any
    ) -> nn.Module:
        seed = rng.derive(self.settings.seed, "net", plan.number)
        precision = self.settings.precision if plan.model == "Maxout" else "fp32"
        model = plan.model if plan.model == "softmax" else f"{models.__name__}:{plan.model}"
        return trained(
            model, images, plan.recipe, folder, seed=seed, options=plan.options, epochs=epochs,
            device=self.device, progress=partial(self.watch, f"training {what}"),
            execution=fa.train.Execution(precision=precision, checkpoint_every=CHECKPOINT_EVERY),
            **{**plan.training, **more},
        )  # fmt: skip


def best(past: Sequence[fa.train.EpochReport]) -> fa.train.EpochReport:
    """Return the first epoch with the least adversarial error on held-out images."""
    return max(past, key=lambda report: report.judged)


@dataclass(frozen=True)
class Line:
    """An error or agreement, None of nothing, and the mean confidence on mistakes, on clean images on all."""

    what: str
    share: float | None
    confidence: float | None = None
    paper: Paper = (None, None)


@dataclass(frozen=True, eq=False)
class Answers:
    """classes int64 [N]; confidence [N], the largest probability of each image; wrong bool [N]."""

    classes: Tensor
    confidence: Tensor
    wrong: Tensor

    @property
    def error(self) -> float:
        return float(self.wrong.double().mean())

    @property
    def mean_confidence(self) -> float:
        return float(self.confidence.double().mean())

    @property
    def confidence_on_mistakes(self) -> float | None:
        return float(self.confidence[self.wrong].double().mean()) if self.wrong.any() else None


class Bench:
    """The networks on the test images: what was crafted once is kept."""

    def __init__(self, nets: Nets, test_set: ImageSet, folder: Path) -> None:
        self.nets, self.settings, self.folder = nets, nets.settings, folder
        self.figures: dict[str, str] = {}
        self.details: dict[str, Any] = {}
        tested = self.settings.tested
        self.test_set = test_set if tested is None else test_set.subset(range(tested))
        place = nets.device or CPU
        self.x, self.y = unit(self.test_set.x).to(place), self.test_set.y.to(place)
        self.crafted, self.rounded = cache(self._crafted), cache(self._rounded)

    def _crafted(self, name: str, *, boxed: bool = False) -> Tensor:
        """FGSM's point for each test image, also where the network is wrong without it, [N, ...]."""
        threat = self.settings.boxed if boxed else self.settings.threat
        return craft(self.nets[name], self.x, self.y, threat, LOSS.get(name, "ce"))

    def _rounded(self, name: str) -> Tensor:
        """Return the same by the gradient of the softmax as float32 gives it."""
        return craft_rounded(self.nets[name], self.x, self.y, self.settings.threat)

    def figure(self, name: str, shows: str) -> Path:
        """Return where a figure is to be drawn; it is listed from then on."""
        path = self.folder / f"{name}.png"
        self.figures[shows] = str(path)
        return path

    def robust_accuracy(self, name: str) -> float:
        """Under PGD within the box, of the first test images: what one step does not show."""
        shown = self.test_set.subset(range(min(STRONGLY_TESTED, len(self.y))))
        own = self.settings
        attack = partial(fa.attacks.pgd, threat=own.boxed, steps=STEPS, loss="ce", seed=own.seed)
        return fa.evaluate(self.nets[name], shown, {"PGD": attack}, indicators=False)["PGD"].robust_accuracy

    def answers(self, name: str, x: Tensor | None = None) -> Answers:
        """On `x`, made of the test images in their order; on these unless given."""
        return answers(self.nets[name], self.x if x is None else x, self.y)


def craft(model: nn.Module, x: Tensor, y: Tensor, threat: fa.Linf, loss: str = "ce") -> Tensor:
    """FGSM's point for each image: x + radius · sign(∇J), in the threat's box."""
    recipe: Any = fa.train.FGSMTraining(threat, loss=loss)
    parts = zip(torch.split(x, BATCH_SIZE), torch.split(y, BATCH_SIZE), strict=True)
    return torch.cat([recipe.craft(model, *part, ids=None, seed=0) for part in parts])


def craft_rounded(model: nn.Module, x: Tensor, y: Tensor, threat: fa.Linf) -> Tensor:
    """FGSM's point as usually written, by a gradient in which the dtype of x has rounded p - 1."""
    moved = []
    for part, labels in zip(torch.split(x, BATCH_SIZE), torch.split(y, BATCH_SIZE), strict=True):
        leaf = part.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(model(leaf), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved.append(threat.step(part, gradient, part, threat.default_step_size(1)))
    return torch.cat(moved)


def answers(model: nn.Module, x: Tensor, y: Tensor) -> Answers:
    """Return what `model`, in eval mode, says of images [N, ...] whose labels are y [N]."""
    frozen, parts = fa.freeze(model), torch.split(x, BATCH_SIZE)
    # not by the probabilities, which are all 0 where an image is far from every template of an RBF network
    classes = torch.cat([frozen.verdict(part).argmax(1) for part in parts])
    confidence = torch.cat([models.confidence(frozen, part).amax(1) for part in parts])
    return Answers(classes, confidence, classes != y)
