"""Attacks by threat: what holds within one radius counts the points of all attacks of its norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.attacks.masking.evidence import SLACK
from fastadv.evaluation.row import Row
from fastadv.threat import Threat


@dataclass(frozen=True)
class Group:
    """The attacks of one threat, None where it is not known."""

    threat: Threat | None
    rows: tuple[Row, ...]

    @property
    def unlimited(self) -> bool:
        """Whether the attacks had no budget."""
        return self.threat is not None and not self.threat.finite

    def same(self, rows: Sequence[Row]) -> list[Row]:
        """Return those of all attacks whose distances are comparable with those of the group."""
        if self.threat is None:
            return list(self.rows)
        return [row for row in rows if comparable(row.threat, self.threat)]

    def nearest(self, rows: Sequence[Row]) -> Tensor:
        """Return float64 [n], the distance of the nearest adversarial example; NaN as in a row."""
        return torch.stack([_distance(row) for row in self.same(rows)]).amin(0)

    def held(self, rows: Sequence[Row]) -> Tensor:
        """Return bool [n]: correct, and broken by no attack within this radius, whatever its own."""
        held = self.rows[0].correct & ~torch.stack([row.broken for row in self.rows]).any(0)
        if self.threat is None or self.unlimited:
            return held
        return held & ~(self.nearest(rows) <= float(self.threat.radius) * (1 + SLACK))


def _distance(row: Row) -> Tensor:
    """Return the distances of a row: of an example in its ball at most the radius, whatever rounding adds."""
    if row.threat is None:
        return row.distance
    return row.distance.where(~row.broken, row.distance.clamp_max(float(row.threat.radius)))


def comparable(one: Threat | None, other: Threat | None) -> bool:
    """Return whether distances in both are of the same norm and box."""
    return one is not None and other is not None and (one.norm, one.box) == (other.norm, other.box)


def groups(rows: Sequence[Row]) -> list[Group]:
    """Return the attacks by threat, those with a budget first."""
    found: dict[object, list[Row]] = {}
    for row in rows:
        threat = row.threat
        found.setdefault(threat and (threat.norm, float(threat.radius), threat.box), []).append(row)
    every = [Group(rows[0].threat, tuple(rows)) for rows in found.values()]
    return sorted(every, key=lambda one: (one.threat is None or one.unlimited, one.threat is None))
