"""Short calls of attacks, from what the registry says of them."""

import inspect
from math import inf
from typing import Any

import fastadv as fa

RADII = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0, "l0": 24.0}
QUICK = {"steps": 10, "queries": 100, "restarts": 1}
TINY = {"steps": 2, "queries": 8, "restarts": 1, "directions": 1}


def norms_of(entry: Any) -> tuple[str, ...]:
    return tuple(norm for norm in entry.norms if norm in RADII)


def threat_of(entry: Any, norm: str) -> Any:
    """Return the threat at a usual radius, or at an infinite one for minimum-norm attacks."""
    return fa.threat.THREATS[norm](inf if entry.kind == "minimum" else RADII[norm])


def budget(entry: Any, tiny: bool) -> dict[str, Any]:
    """Return the registry's arguments for a short run, cut to the least if `tiny`."""
    given = dict(entry.quick)
    known = inspect.signature(entry.run).parameters
    for name, most in (TINY if tiny else QUICK).items():
        required = name in known and known[name].default is inspect.Parameter.empty
        if name in given or required:
            given[name] = min(given.get(name, most), most) if tiny else given.get(name, most)
    return given
