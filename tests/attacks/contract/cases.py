"""The attacks under contract, what they are given, and the distances of linear models by closed form."""

from dataclasses import replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from fastadv.attacks import ATTACKS, Attack
from fastadv.threat import THREATS, Threat

from ..nets import RADIUS, Case
from .toy import TOYS

# fewer steps still than in a quick run, where attacks keep every promise
FEWER: dict[str, dict[str, Any]] = {
    "boundary": {"queries": 60},
    "fab": {"restarts": 3},
    "hopskipjump": {"queries": 70},
    "lbfgs": {"searches": 3},
    "minimum_norm": {"steps": 25},
    "minimum_radius": {"searches": 3},
    "pdpgd": {"steps": 30},
    "pointwise": {"queries": 35},
    "square": {"queries": 20},
}
# published variants: the largest distance at which 800 queries break a sample, over the boundary's, and the
# arguments of a short run
PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "boundary": (8.0, {"queries": 40}),
    "hopskipjump": (2.5, {"queries": 50, "directions": 8}),
    "pointwise": (12.0, {"queries": 45}),
}


class Brief(Case):
    @property
    def quick(self) -> dict[str, Any]:
        return {**super().quick, **FEWER.get(self.name, {})}


def published(entry: Attack) -> Attack:
    tolerance, few = PUBLISHED[entry.name]
    quick, oracle = {"restarts": 2, "variant": "published", **few}, {"queries": 800, "restarts": 1}
    return replace(entry, quick=quick, oracle=oracle, tolerance=tolerance)


OURS = [Brief(name, entry) for name, entry in ATTACKS.items()]
OURS += [Brief(f"{name} published", published(ATTACKS[name])) for name in PUBLISHED]
CASES = [*OURS, *(Brief(name, entry) for name, entry in TOYS.items())]
NAMED = {case.name: case for case in CASES}


def wide(case: Case, norm: str, box: tuple[float, float] = (0.0, 1.0), scale: float = 1.0) -> Threat:
    """Any distance for minimum-norm attacks; for the others, a ball in which `mlp` often breaks."""
    width = box[1] - box[0]
    if case.entry.minimal:
        return THREATS[norm](torch.inf, box)
    return THREATS[norm](3 * scale * RADIUS[norm] * (1 if norm == "l0" else width), box)


def norm_of(case: Case, *test: object) -> str:
    return case.entry.norms[crc32(repr((case.name, *test)).encode()) % len(case.entry.norms)]


def two_classes(x: Tensor, gap: float, seed: int = 3) -> tuple[nn.Module, Tensor]:
    """A linear model in float64, class 0 `gap` above the largest w . x, and the weights w of class 1."""
    weight = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    along = x.double().flatten(1) @ weight
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        model[1].bias.copy_(torch.tensor([float(along.max()) + gap, 0.0]))
    return model, weight


def options(case: Case, **given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if case.takes(name)}
