"""The demo's work: six nets on the embedded digits, and what attacks leave of them. Public calls only; every part resumes.

A small copy of Ilyas et al. 2019, "Adversarial examples are not bugs, they are features": a standard and an adversarially trained net,
the four sets D_R, D_NR, D_rand and D_det built from them, and a fresh net trained in the ordinary way on each.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import fastadv as fa
from fastadv.data import ImageSet, construct
from fastadv.evaluation import Curve, Table, accuracy_against_radius


@dataclass(frozen=True)
class Settings:
    """All that the study depends on. Radii and steps are in input units, images in [0, 1]; those not named Linf are L2."""

    size: int = 10
    seed: int = 0
    width: int = 8
    samples: int | None = None
    epochs: int = 20
    batch_size: int = 64
    train_radius: float = 0.8
    train_steps: int = 7
    invert_steps: int = 100
    invert_step_size: float = 0.1
    push_radius: float = 1.2
    push_steps: int = 40
    linf_radius: float = 0.08
    l2_radius: float = 0.4
    attack_steps: int = 20
    abs_epochs: int = 30
    abs_prior: int = 1000
    abs_samples: int = 100
    curve_radii: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    def attacks(self) -> dict[str, Callable[..., Any]]:
        """The attacks each net is measured under, by the names the table shows."""
        linf, l2, steps, seed = fa.Linf(self.linf_radius), fa.L2(self.l2_radius), self.attack_steps, self.seed
        return {
            f"FGSM L∞ {self.linf_radius:g}": partial(fa.attacks.fgsm, threat=linf, seed=seed),
            f"PGD L∞ {self.linf_radius:g}": partial(fa.attacks.pgd, threat=linf, steps=steps, seed=seed),
            f"PGD L2 {self.l2_radius:g}": partial(fa.attacks.pgd, threat=l2, steps=steps, seed=seed),
        }


@dataclass(frozen=True)
class Net:
    """A net of the study: what it learnt from, the net itself, and its figures."""

    name: str
    learnt: ImageSet
    model: nn.Module
    table: Table


class Study:
    """The study in a folder; what an earlier, interrupted run left there is taken up again."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        size = None if settings.size == 8 else settings.size
        base, test = (
            fa.data.load("digits", split, size=size, limit=settings.samples) for split in ("train", "test")
        )
        assert isinstance(base, ImageSet)
        assert isinstance(test, ImageSet)
        self.base, self.test = base, test

    @property
    def main_attack(self) -> str:
        """The name of the attack that the findings speak of, PGD on L2."""
        return list(self.settings.attacks())[-1]

    def nets(self, watch: Callable[[str, int, int], None]) -> Iterator[Net]:
        """The six nets in order: standard, adversarial, D_R, D_NR, D_rand, D_det. `watch` gets (what, done, total)."""
        s = self.settings
        adversary = fa.train.PGDTraining(
            fa.L2(s.train_radius), steps=s.train_steps, step_size=s.train_radius / 5, random_start=False
        )
        standard = self._train("standard", self.base, fa.train.Standard(), watch)
        yield standard
        adversarial = self._train("adversarial", self.base, adversary, watch)
        yield adversarial
        for name in SETS:
            source = adversarial if name == "D_R" else standard
            made = self._construct(name, source.model, partial(watch, f"building {name}"))
            yield self._train(name, made, fa.train.Standard(), watch)

    def curve(self, net: Net) -> Curve:
        """Accuracy against the L2 radius of PGD."""
        s = self.settings
        return accuracy_against_radius(
            net.model,
            self.test,
            lambda r: partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, seed=s.seed),
            s.curve_radii,
        )

    def _train(
        self, name: str, learnt: ImageSet, recipe: fa.train.Recipe, watch: Callable[[str, int, int], None]
    ) -> Net:
        s = self.settings
        # a net on a constructed set starts from other weights than the nets that the sets were made with
        seed = s.seed + (name in SETS)
        model = fa.models.create("small_cnn", shape=self.test.shape, classes=10, width=s.width, seed=seed)
        options: dict[str, Any] = {"batch_size": s.batch_size, "schedule": "cosine", "seed": seed}
        for _ in fa.train.fit(
            model,
            learnt,
            recipe,
            epochs=s.epochs,
            run_dir=self.folder / "nets" / name,
            resume=True,
            progress=partial(watch, f"training {name}"),
            **options,
        ):
            pass
        model.eval()
        return Net(name, learnt, model, fa.evaluate(model, self.test, s.attacks()))

    def _construct(self, name: str, source: nn.Module, progress: Callable[[int, int], None]) -> ImageSet:
        s = self.settings
        options: dict[str, Any] = {
            "seed": s.seed,
            "out_dir": self.folder / "sets" / name,
            "progress": progress,
        }
        if name in ("D_R", "D_NR"):
            invert = construct.robust if name == "D_R" else construct.non_robust
            return invert(source, self.base, steps=s.invert_steps, step_size=s.invert_step_size, **options)
        push = construct.random_target if name == "D_rand" else construct.fixed_shift
        return push(
            source,
            self.base,
            threat=fa.L2(s.push_radius),
            steps=s.push_steps,
            step_size=s.push_radius / 10,
            **options,
        )


SIZES = {
    8: Settings(
        size=8,
        width=16,
        epochs=30,
        batch_size=128,
        train_radius=1.0,
        push_radius=1.5,
        linf_radius=0.15,
        l2_radius=0.65,
    ),
    10: Settings(),
    16: Settings(size=16, epochs=15, train_radius=0.5, push_radius=0.5, linf_radius=0.03, l2_radius=0.25),
    28: Settings(
        size=28, train_radius=0.5, push_radius=0.5, invert_step_size=0.2, linf_radius=0.015, l2_radius=0.15
    ),
}
"""The study at each size. The larger the image, the more directions a net sees that a digit does not use, and the smaller the radius that
breaks it: at 8 D_R is hardly more robust than the digits, at 16 and 28 D_det no longer teaches the true labels, at 10 every set shows."""

TINY = Settings(
    width=4,
    samples=60,
    epochs=1,
    train_steps=1,
    invert_steps=2,
    push_steps=2,
    attack_steps=2,
    abs_epochs=1,
    abs_prior=20,
    abs_samples=4,
    curve_radii=(0.0, 1.0),
)
"""Every part in a second or two; its figures mean nothing."""

SETS = ("D_R", "D_NR", "D_rand", "D_det")


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    return {**asdict(settings), "curve_radii": list(settings.curve_radii)}
