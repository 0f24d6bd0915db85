"""Ilyas et al. 2019 in small: two nets, the four sets made with them, a net taught by each; all resumes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

import fastadv as fa
from fastadv.data import ImageSet, construct
from fastadv.evaluation import Table

PAPER_ATTACK = "PGD L2 0.25"
SOURCE = f"Ilyas et al. 2019, ResNet-50 on CIFAR-10, {PAPER_ATTACK}"
# A net's training images; its accuracy there, clean and attacked (table 1, figure 2; 0 is "about 0")
NETS = {
    "standard": ("the digits", 0.9525, 0.0449),
    "adversarial": ("the digits under PGD", 0.9083, 0.823),
    "D_R": ("robust features", 0.841, 0.483),
    "D_NR": ("non-robust features", 0.877, 0.008),
    "D_rand": ("random labels", 0.633, 0.0),
    "D_det": ("wrong labels", 0.437, 0.0),
}
# the net that a set is made with, its construction, and what to say of it
SETS = {
    "D_R": ("adversarial", "robust", "robust features kept"),
    "D_NR": ("standard", "non_robust", "non-robust features kept"),
    "D_rand": ("standard", "random_target", "random label"),
    "D_det": ("standard", "fixed_shift", "next label"),
}
CLEARLY_ABOVE_CHANCE = 0.2


@dataclass(frozen=True)
class Settings:
    """What the demo depends on, in input units; radii not named Linf are L2."""

    size: int = 10  # height and width of the digits; here all six nets show what the paper reports
    seed: int = 0  # of everything random
    width: int = 8
    samples: int | None = None  # use this many training images only; None uses all
    epochs: int = 20
    batch_size: int = 64
    train_radius: float = 0.8  # of adversarial training
    train_steps: int = 7  # of the attack in adversarial training
    train_ramp: int | None = 1  # first epochs of adversarial training, in which the radius grows
    invert_steps: int = 100  # of the search for D_R and D_NR
    invert_step_size: float = 0.1  # of the search for D_R and D_NR
    push_radius: float = 1.2  # of the search for D_rand and D_det
    push_steps: int = 40  # of the search for D_rand and D_det
    linf_radius: float = 0.08  # of the attacks in L-infinity
    l2_radius: float = 0.4  # of the attacks in L2
    attack_steps: int = 20
    abs_epochs: int = 30  # of training ABS
    abs_prior: int = 1000  # prior samples of ABS
    abs_samples: int = 100  # images that ABS is measured on
    curve_radii: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def attacks(self) -> dict[str, Callable[..., Any]]:
        linf, l2 = fa.Linf(self.linf_radius), fa.L2(self.l2_radius)
        fgsm = partial(fa.attacks.fgsm, loss="ce", seed=self.seed)
        pgd = partial(fa.attacks.pgd, steps=self.attack_steps, loss="ce", seed=self.seed)
        return {
            f"FGSM L∞ {self.linf_radius:g}": partial(fgsm, threat=linf),
            f"PGD L∞ {self.linf_radius:g}": partial(pgd, threat=linf),
            self.main_attack: partial(pgd, threat=l2),
        }

    @property
    def main_attack(self) -> str:
        return f"PGD L2 {self.l2_radius:g}"


TINY = Settings(
    width=4, samples=60, epochs=1, train_steps=1, train_ramp=None, invert_steps=2, push_steps=2,
    attack_steps=2, abs_epochs=1, abs_prior=20, abs_samples=4, curve_radii=(0.0, 1.0),
)  # fmt: skip
"""Every part in a second or two; the figures mean nothing."""

Watch = Callable[[str, int, int], None]  # called with (what is being done, done, total)


class Digits:
    """The settings, the digits, and the folder, in which an interrupted run resumes."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.base, self.test = (
            cast(ImageSet, fa.data.load("digits", split, size=settings.size, limit=settings.samples))
            for split in ("train", "test")
        )


@dataclass(frozen=True)
class Net:
    name: str
    learned: ImageSet
    model: nn.Module
    table: Table


def nets(digits: Digits, watch: Watch) -> Iterator[Net]:
    """Train the six networks in order: standard, adversarial, D_R, D_NR, D_rand, D_det."""
    s, sources = digits.settings, dict[str, Net]()
    pgd = partial(fa.train.PGDTraining, steps=s.train_steps, step_size=s.train_radius / 5, random_start=False)
    recipes = ("standard", fa.train.Standard()), ("adversarial", pgd(fa.L2(s.train_radius)))
    for name, recipe in recipes:
        sources[name] = _train(digits, name, digits.base, recipe, watch)
        yield sources[name]
    pushed = {"threat": fa.L2(s.push_radius), "steps": s.push_steps, "step_size": s.push_radius / 10}
    inverted = {"steps": s.invert_steps, "step_size": s.invert_step_size}
    for name, (source, make, _) in SETS.items():
        constructed = getattr(construct, make)(
            sources[source].model, digits.base, **(inverted if "robust" in make else pushed), seed=s.seed,
            out_dir=digits.folder / "sets" / name, progress=partial(watch, f"building {name}"),
        )  # fmt: skip
        yield _train(digits, name, constructed, fa.train.Standard(), watch)


def _train(digits: Digits, name: str, learned: ImageSet, recipe: fa.train.Recipe, watch: Watch) -> Net:
    s = digits.settings
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    seed = s.seed + (name in SETS)
    model = fa.models.create(
        "small_cnn", shape=learned.shape, classes=learned.num_classes, seed=seed, width=s.width
    )
    ramp = s.train_ramp if name == "adversarial" else None
    fa.train.fit(
        model, learned, recipe, run_dir=digits.folder / "nets" / name, resume=True, seed=seed,
        epochs=s.epochs, batch_size=s.batch_size,
        optimization=fa.train.Optimization(schedule="cosine", ramp=ramp),
        progress=partial(watch, f"training {name}"),
    )  # fmt: skip
    return Net(name, learned, model.eval(), fa.evaluate(model, digits.test, s.attacks(), indicators=False))


def measured(net: Net) -> dict[str, Any]:
    return {
        "clean": net.table.clean_accuracy,
        "robust": {row.name: row.robust_accuracy for row in net.table.rows},
        "paper_cifar10": dict(zip(("clean", PAPER_ATTACK), NETS[net.name][1:], strict=True)),
        "trained_on": len(net.learned),
    }


def findings(results: Mapping[str, Any], attack: str) -> list[str]:
    d_r, standard = (float(results[name]["robust"][attack]) for name in ("D_R", "standard"))
    keeps = f"D_R keeps {d_r:.1%} under {attack}, the standard net {standard:.1%}"
    others = {name: float(results[name]["clean"]) for name in ("D_NR", "D_rand", "D_det")}
    reads = ", ".join(f"{name} {clean:.1%}" for name, clean in others.items())
    return [
        f"Robust features alone protect: {keeps}."
        if d_r > standard
        else f"{keeps}: the paper's robustness did not show here.",
        f"Non-robust features alone teach: {reads}; chance 10%."
        if min(others.values()) > CLEARLY_ABOVE_CHANCE
        else f"{reads}; chance 10%: not all of the paper's effects showed here.",
    ]
