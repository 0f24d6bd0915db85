"""What the page begins with: one sentence for each threat, and the signs of masked gradients."""

import math
from dataclasses import dataclass

from torch import Tensor

from fastadv.attacks.methods.flags import SIGNS
from fastadv.evaluation.row import Group
from fastadv.evaluation.table import Table
from fastadv.intervals import bootstrap, clopper_pearson, median
from fastadv.text import number, percent, threat_text

NAMED = 4  # attacks that a sentence names
STATES = ("raised", "not looked at", "clear")  # of a sign, in the order in which they are told


def sentence(table: Table, group: Group, bounds: Tensor | None) -> str:
    """Say in one sentence what the attacks of a threat come to."""
    names = [row.name for row in group.same(table.rows)]
    under = f"{len(names)} attacks"
    if len(names) <= NAMED:
        *first, last = names
        under = f"{', '.join(first)} and {last}" if first else last
    if group.unlimited:
        return _distance_told(table, group, under)
    held = group.held(table.rows)
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
    distance = group.nearest(table.rows)
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
