"""What is trained on each data set: the recipes by name, and the settings of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fastadv as fa
from fastadv._checks import check_count, check_seed
from fastadv.attacks.autoattack import Version
from fastadv.errors import InputError

STEPS, REPLAYS = 7, 4
PGD, QUICK = "PGD-20", "AutoAttack quick"
"""The attacks that measure an epoch, by the names that tables and figures show."""


@dataclass(frozen=True)
class Settings:
    """What the study depends on; the defaults are those on MNIST."""

    recipes: tuple[str, ...] = ()  # names of recipes on that data set; () takes all
    radius: float = 0.3
    epochs: int = 10
    ramp: int = 2  # epochs in which the radius grows
    batch_size: int = 64
    learning_rate: float = 0.002  # the largest of the schedule
    tested: int = 1000  # test images that measure an epoch
    judged: int = 500  # test images for AutoAttack at the end
    version: Version = "standard"
    seed: int = 0  # of the first run of each recipe
    seeds: int = 1  # runs of each recipe, with this many consecutive seeds
    data: str = "mnist"  # "mnist" or "cifar10"
    images: int | None = None  # train on this many images only; None uses all
    model: str = "wong_cnn"  # a name of `fastadv.models`
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "cosine"
    ema: float | None = None  # decay of the averaged weights; None averages none
    augment: tuple[str, ...] = ()  # augmentations, by name
    precision: str = "fp32"
    test_every: int = 1  # measure every epoch whose number this divides, and the last
    watched: bool = False  # whether AutoAttack (quick) measures these epochs, too

    def __post_init__(self) -> None:
        if self.data not in RECIPES:
            raise InputError(f"data: expected one of {', '.join(RECIPES)}, got {self.data!r}")
        known = RECIPES[self.data]
        object.__setattr__(self, "recipes", self.recipes or tuple(known))
        for name in self.recipes:
            if name not in known:
                raise InputError(
                    f"recipes: expected some of {', '.join(known)} on {self.data}, got {name!r}; "
                    "check its spelling"
                )
        check_count("seeds", self.seeds, 1)
        check_seed(self.seed + self.seeds - 1)

    @property
    def threat(self) -> fa.Linf:
        return fa.Linf(self.radius)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """The recipe and the seed of each run, in their order: all recipes of a seed together."""
        return [(name, self.seed + i) for i in range(self.seeds) for name in self.recipes]

    def of(self, name: str, seed: int) -> "Settings":
        """Make the settings of one run; some recipes have settings of their own."""
        return replace(self, recipes=(name,), seed=seed, seeds=1, **OWN.get((self.data, name), {}))

    def recipe(self) -> Any:
        (name,) = self.recipes
        return RECIPES[self.data][name](self)

    def folder(self, name: str, seed: int) -> Path:
        """Choose the folder of a run; runs with another seed form a study of their own."""
        return Path(name) if seed == self.seed else Path(f"seed{seed}", name)


def lengths(settings: Settings, recipe: Any) -> tuple[int, int | None]:
    """Return the epochs of a recipe, of free fewer as each replay costs one, and how many grow the radius."""
    replays = getattr(recipe, "replays", 1)
    epochs, ramp = (-(-count // replays) for count in (settings.epochs, settings.ramp))
    if isinstance(recipe, fa.train.Standard):
        ramp = 0
    return epochs, (ramp if replays == 1 else min(ramp, epochs - 1)) or None


def _strong(settings: Settings) -> dict[str, Any]:
    return {"threat": settings.threat, "steps": STEPS, "step_size": settings.radius / 3}


def _published(settings: Settings, steps: int) -> dict[str, Any]:
    """Return steps of a quarter of the radius: 2/255 at 8/255."""
    return {"threat": settings.threat, "steps": steps, "step_size": settings.radius / 4}


Make = Callable[[Settings], Any]
MNIST: dict[str, Make] = {
    "standard": lambda own: fa.train.Standard(),
    "fgsm": lambda own: fa.train.FGSMTraining(own.threat),
    "fgsm-rs": lambda own: fa.train.FastTraining(own.threat),
    "n-fgsm": lambda own: fa.train.FastTraining(own.threat, method="n-fgsm"),
    "free": lambda own: fa.train.FreeTraining(own.threat, replays=REPLAYS),
    "pgd": lambda own: fa.train.PGDTraining(**_strong(own)),
    "pgd+awp": lambda own: fa.train.AWP(fa.train.PGDTraining(**_strong(own))),
    "trades": lambda own: fa.train.TRADES(**_strong(own)),
    "trades+awp": lambda own: fa.train.AWP(fa.train.TRADES(**_strong(own))),
    "mart": lambda own: fa.train.MART(**_strong(own)),
}
# The papers' own: NuAT's weight is whole for the last ten epochs, AWP is half as far around TRADES.
CIFAR10: dict[str, Make] = {
    "fgsm": lambda own: fa.train.FGSMTraining(own.threat, weight=0.0),
    "n-fgsm": lambda own: fa.train.FastTraining(own.threat, method="n-fgsm"),
    "nuat": lambda own: fa.train.NuAT(own.threat, rise=max(1, own.epochs - 10)),
    "pgd": lambda own: fa.train.PGDTraining(**_published(own, 7)),
    "trades+awp": lambda own: fa.train.AWP(fa.train.TRADES(**_published(own, 10)), gamma=0.005),
}
RECIPES = {"mnist": MNIST, "cifar10": CIFAR10}
"""The recipes on each data set, by the names that the table shows."""

OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("cifar10", "fgsm"): {"augment": (), "radius": 16 / 255},
    ("cifar10", "nuat"): {"learning_rate": 0.1},
    ("cifar10", "trades+awp"): {"learning_rate": 0.1, "ema": 0.995},
}
"""Settings that a recipe has of its own: the rates of the papers. FGSM shows what goes wrong: one step
of twice the radius without a random start, and images that a network learns by heart.
"""

SETS = {
    "mnist": Settings(),
    "cifar10": Settings(
        data="cifar10", images=10_000, radius=8 / 255, epochs=15, ramp=0, batch_size=128, learning_rate=0.2,
        model="resnet18", options={"width": 16, "normalize": "cifar10"}, optimizer="sgd", weight_decay=5e-4,
        schedule="one_cycle", augment=("crop", "alternating_flip"), precision="bf16", tested=200,
        test_every=3, watched=True,
    ),
}  # fmt: skip
"""The settings on each data set. On CIFAR-10 they are for one core: a narrow ResNet-18, and images enough for
robust overfitting.
"""
