"""Threat models: one file for each norm. THREATS, by name, is the only list of them."""

from fastadv.threat.base import Threat
from fastadv.threat.l0 import L0
from fastadv.threat.l1 import L1
from fastadv.threat.l2 import L2
from fastadv.threat.linf import Linf

THREATS: dict[str, type[Threat]] = {kind.norm: kind for kind in (Linf, L2, L1, L0)}

__all__ = ["L0", "L1", "L2", "THREATS", "Linf", "Threat"]
