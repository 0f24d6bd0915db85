"""What the page begins with: one sentence for each threat, and the signs of masked gradients."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastadv.attacks.masking.evidence import SLACK
from fastadv.attacks.methods.flags import SIGNS
from fastadv.evaluation.intervals import bootstrap, clopper_pearson, median
from fastadv.evaluation.report.grid import threat_text
from fastadv.evaluation.table import Row, Table
from fastadv.evaluation.text import number, percent
from fastadv.threat import Threat

NAMED = 4  # attacks that a sentence names
STATES = ("raised", "not looked at", "clear")  # of a sign, in the order in which they are told


@dataclass(frozen=True)
class Group:
    """The attacks of one threat, None where it is not known."""

    threat: Threat | None
    rows: tuple[Row, ...]

    @property
    def finite(self) -> bool:
        """Whether the attacks had a budget."""
        return self.threat is not None and self.threat.finite

    def same(self, table: Table) -> list[Row]:
        """Return all attacks whose distances are comparable with those of the group."""
        if self.threat is None:
            return list(self.rows)
        return [row for row in table.rows if comparable(row.threat, self.threat)]

    def nearest(self, table: Table) -> Tensor:
        """Return float64 [n], the distance of the nearest adversarial example; NaN as in a row."""
        return torch.stack([_distance(row) for row in self.same(table)]).amin(0)

    def held(self, table: Table) -> Tensor:
        """Return bool [n]: correct, and broken by no attack within this radius, whatever its own was."""
        held = ~torch.stack([row.broken for row in self.rows]).any(0) & table.correct
        if not self.finite or self.threat is None:
            return held
        return held & ~(self.nearest(table) <= float(self.threat.radius) * (1 + SLACK))


def _distance(row: Row) -> Tensor:
    """Return the distances of a row: of an example in its ball at most the radius, whatever rounding adds."""
    if row.threat is None:
        return row.distance
    return row.distance.where(~row.broken, row.distance.clamp_max(float(row.threat.radius)))


def comparable(one: Threat | None, other: Threat | None) -> bool:
    """Return whether distances in both are of the same norm and box."""
    return one is not None and other is not None and (one.norm, one.box) == (other.norm, other.box)


def groups(table: Table) -> list[Group]:
    """Return the attacks by threat, those with a budget first."""
    found: dict[object, list[Row]] = {}
    for row in table.rows:
        threat = row.threat
        found.setdefault(threat and (threat.norm, float(threat.radius), threat.box), []).append(row)
    every = [Group(rows[0].threat, tuple(rows)) for rows in found.values()]
    return sorted(every, key=lambda group: (not group.finite, group.threat is None))


def sentence(table: Table, group: Group, bounds: Tensor | None) -> str:
    """Say in one sentence what the attacks of a threat come to."""
    names = [row.name for row in group.same(table)]
    under = f"{len(names)} attacks"
    if len(names) <= NAMED:
        *first, last = names
        under = f"{', '.join(first)} and {last}" if first else last
    if group.threat is not None and not group.finite:
        return _distance_told(table, group, under)
    held = group.held(table)
    right = int(held.sum())
    low, high = (percent(end) for end in clopper_pearson(right, table.n))
    where = (
        f"within {threat_text(group.threat)}" if group.threat else "in a threat that the attacks do not tell"
    )
    told = (
        f"Robust accuracy {percent(right / table.n)} (95% interval {low} to {high}) {where}: "
        f"{right:,} of {table.n:,} samples stay correct under {under}"
    )
    if bounds is None or group.threat is None:
        return f"{told}."
    proved = (table.correct & (bounds >= float(group.threat.radius))).double().mean().item()
    return f"{told}, and {percent(proved)} are proved to."


def _distance_told(table: Table, group: Group, under: str) -> str:
    distance = group.nearest(table)
    known = distance[~distance.isnan()].numpy()
    assert group.threat is not None
    symbol = group.threat.symbol
    middle = median(known) if len(known) else math.nan
    if not math.isfinite(middle):
        found = f"for fewer than half of {table.n:,} samples"
        return f"An adversarial example in {symbol} was found {found}, by {under}."
    low, high = (number(end).replace("inf", "∞") for end in bootstrap(known, median))
    return (
        f"Median distance to an adversarial example {number(middle)} in {symbol} (95% interval {low} to "
        f"{high}), over {len(known):,} samples, found by {under}."
    )


@dataclass(frozen=True)
class Shown:
    """A sign of masked gradients: what it means, its value and limit, and what to do where it is raised."""

    name: str
    state: str
    means: str
    value: str
    advice: str


def signs(table: Table) -> list[Shown]:
    """Return all signs, those that are raised first; none where nobody looked."""
    found = table.indicators
    if found is None:
        return []
    shown = []
    for name, sign in SIGNS.items():
        state = STATES[0] if name in found.flagged else STATES[1] if name in found.unseen else STATES[2]
        value = f"{number(found.values.get(name))}, raised above {sign.limit:g}"
        advice = found.advice.get(name, "") if state == STATES[0] else found.unseen.get(name, "")
        shown.append(Shown(name, state, sign.words, value if state != STATES[1] else "-", advice))
    return sorted(shown, key=lambda each: STATES.index(each.state))
