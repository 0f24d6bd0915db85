"""Data sets constructed with a source network: D_R, D_NR, D_rand and D_det of Ilyas et al. 2019."""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import Any

from fastadv.data.construct._build import BuildOptions
from fastadv.data.construct.constructed import ConstructedSet, load_constructed
from fastadv.data.construct.inversion import non_robust, robust
from fastadv.data.construct.targeted import fixed_shift, random_target
from fastadv.data.construct.verify import verify_constructed
from fastadv.threat import L2

__all__ = [
    "CIFAR10_PAPER",
    "BuildOptions",
    "ConstructedSet",
    "fixed_shift",
    "load_constructed",
    "non_robust",
    "random_target",
    "robust",
    "verify_constructed",
]

Budgets = Mapping[str, dict[str, Any]]
# The paper's radius for an inversion is 1000, farther than any two images
_INVERSION = {"threat": L2(inf), "steps": 1000, "step_size": 0.1}
_ATTACK = {"threat": L2(0.5), "steps": 100, "step_size": 0.1}

CIFAR10_PAPER: Budgets = MappingProxyType(
    {"d_r": _INVERSION, "d_nr": _INVERSION, "d_rand": _ATTACK, "d_det": _ATTACK}
)
"""The paper's budgets for CIFAR-10, for example `random_target(model, base, **CIFAR10_PAPER["d_rand"])`."""
