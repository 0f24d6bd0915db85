"""A threat with one radius as JSON, and back: what parts of a run and tables know of it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastadv.threat import THREATS, Named, Threat
from fastadv.threat.through import Own


def threat_as_json(threat: Threat | None) -> list[Any] | None:
    """Return what is kept of a threat: its kind, "" for a known norm, name, radius, box and metric."""
    if threat is None or isinstance(threat.radius, Tensor):
        return None
    known, of = isinstance(threat, Named), type(threat)
    kind = "" if of is THREATS.get(threat.norm) else "map" if known else "own"
    # a norm of the caller's own may have inherited the name of another
    name = threat.norm if known or not kind else vars(of).get("symbol", of.__name__)
    return [kind, name, threat.radius, *threat.box, threat.metric]


def threat_from_json(kept: Sequence[Any] | None) -> Threat | None:
    if kept is None:
        return None
    kind, name, radius, low, high, does = kept
    if kind:
        return (Named if kind == "map" else Own)(radius, (low, high), name=name, _does=does)
    return THREATS[name](radius, (low, high))
