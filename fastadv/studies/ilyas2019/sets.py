"""The constructed sets of section 3: which net each is made with, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import fastadv as fa
from fastadv.data import ConstructedSet, ImageSet, construct
from fastadv.data.construct.paper import CIFAR10_PAPER
from fastadv.engine import Prepared


@dataclass(frozen=True)
class Kind:
    """A set: the net that it is made with, the construction in `fa.data.construct`, and what to say of it.

    near: pushed within the paper's own radius, where the settings have a larger one.
    """

    source: str
    construction: str
    remark: str
    options: Mapping[str, Any] = field(default_factory=dict)
    near: bool = False

    @property
    def inverts(self) -> bool:
        """Whether a representation is inverted; otherwise images are pushed towards a class."""
        return self.construction in ("robust", "non_robust")


NOISE = {"start": "noise"}
NEAR = float(CIFAR10_PAPER["d_rand"]["threat"].radius)
KINDS = {
    "D_R": Kind("adversarial", "robust", "robust features kept"),
    "D_R_noise": Kind("adversarial", "robust", "the same, from noise", NOISE),
    "D_NR": Kind("standard", "non_robust", "non-robust features kept"),
    "D_NR_noise": Kind("standard", "non_robust", "the same, from noise", NOISE),
    "D_rand": Kind("standard", "random_target", "random label"),
    "D_det": Kind("standard", "fixed_shift", "next label"),
    f"D_rand at L2 {NEAR:g}": Kind("standard", "random_target", "random label", near=True),
    f"D_det at L2 {NEAR:g}": Kind("standard", "fixed_shift", "next label", near=True),
}
SETS = ("D_R", "D_NR", "D_rand", "D_det")
"""Those of the paper's main text; they start from images."""


def budget(name: str, settings: Any) -> dict[str, Any]:
    """Return what the construction of the set `name` may spend, by the settings of a study."""
    s = settings
    if KINDS[name].inverts:
        return {"steps": s.invert_steps, "step_size": s.invert_step_size}
    radius = NEAR if KINDS[name].near else s.push_radius
    step_size = s.push_step_size * radius / s.push_radius
    return {"threat": fa.L2(radius), "steps": s.push_steps, "step_size": step_size}


def build(
    name: str, source: nn.Module | Prepared, base: ImageSet, settings: Any, **options: Any
) -> ConstructedSet:
    """Return the set `name` made with `source`, with the budget and seed of the settings."""
    kind = KINDS[name]
    make = getattr(construct, kind.construction)
    spent = {**budget(name, settings), "seed": settings.seed}
    made: ConstructedSet = make(source, base, **kind.options, **spent, **options)
    return made


def adversary(settings: Any) -> fa.train.PGDTraining:
    """Return how the adversarially trained net is trained."""
    radius = settings.train_radius
    return fa.train.PGDTraining(
        fa.L2(radius), steps=settings.train_steps, step_size=radius / 5, random_start=False
    )
