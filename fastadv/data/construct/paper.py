"""The budgets of Ilyas et al. 2019 (arXiv 1905.02175), by name."""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import Any

from fastadv.threat import L2

Budgets = Mapping[str, dict[str, Any]]


# the paper's radius for an inversion is 1000, farther than any two images
_INVERSION = {"threat": L2(inf), "steps": 1000, "step_size": 0.1}
_ATTACK = {"threat": L2(0.5), "steps": 100, "step_size": 0.1}

CIFAR10_PAPER: Budgets = MappingProxyType(
    {"d_r": _INVERSION, "d_nr": _INVERSION, "d_rand": _ATTACK, "d_det": _ATTACK}
)
"""The paper's budgets for CIFAR-10, for example `random_target(model, base, **CIFAR10_PAPER["d_rand"])`."""

RESTRICTED_IMAGENET_PAPER: Budgets = MappingProxyType(
    {
        "d_r": {"threat": L2(inf), "steps": 2000, "step_size": 1.0},
        "d_nr": {"threat": L2(inf), "steps": 2000, "step_size": 1.0},
        "d_rand": {"threat": L2(3.0), "steps": 100, "step_size": 0.1},
        "d_det": {"threat": L2(3.0), "steps": 100, "step_size": 0.1},
    }
)
"""The paper's budgets for Restricted ImageNet. No code of the authors for these sets is public."""
