"""Threat models: one file for each norm, and for each map. THREATS, by name, is the only list of norms."""

from fastadv.threat.base import Threat
from fastadv.threat.l0 import L0
from fastadv.threat.l1 import L1
from fastadv.threat.l2 import L2
from fastadv.threat.linf import Linf
from fastadv.threat.moved import Moved
from fastadv.threat.patch import Patch
from fastadv.threat.scaled import Scaled
from fastadv.threat.through import Named, Through

THREATS: dict[str, type[Threat]] = {kind.norm: kind for kind in (Linf, L2, L1, L0)}

__all__ = [
    "L0", "L1", "L2", "THREATS", "Linf", "Moved", "Named", "Patch", "Scaled", "Threat", "Through",
]  # fmt: skip
