"""What the page begins with: each threat in plain words and in detail, and the signs of masked gradients."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.masking.flags import SIGNS
from fastadv.evaluation._rows import NARROWER
from fastadv.evaluation.report.pictures import is_image
from fastadv.evaluation.row import Group, Row
from fastadv.evaluation.table import Table
from fastadv.intervals import bootstrap, clopper_pearson, median
from fastadv.text import allowed_text, number, percent, several

# how NIST AI 100-2 E2025 (section 2.2) calls evasion by what the attacker knows
EVASION = {
    "gradient": "white-box evasion", "score": "black-box evasion by scores", "none": "evasion by noise",
    "decision": "black-box evasion by decisions", "transfer": "evasion by transfer", "": "evasion",
}  # fmt: skip
UNTOLD = "in a threat that the attacks do not tell"
NAMED = 4  # attacks that a sentence names


def plainly(table: Table, group: Group) -> str:
    """Say the same as `sentence` to a reader who knows no norms; "" where the threat is not known."""
    x = None if table.samples is None else table.samples.x
    things = "image" if x is not None and is_image(x) else "sample"
    if group.threat is None or not group.whole:
        return ""
    apart = group.rows[0].apart
    if not group.unlimited:
        right = group.right(table.rows)
        share = "" if table.n == 100 else f" ({percent(right / table.n, 0)})"
        most = f"{'At most ' if table.lead else ''}{right:,} of {several(table.n, things)}{share}"
        stay = "stays" if table.n == 1 else "stay"
        return f"{most} {stay} correct when {allowed_text(group.threat, x)}{apart}."
    known = _known(table, group)
    if not (len(known) and math.isfinite(middle := median(known))):
        return f"Fewer than half of the {things}s were misread after a change of any size."
    reached = group.threat.with_radius(float(number(middle)))
    return f"Half of the {things}s are misread when {allowed_text(reached, x)}{apart}."


def _called(rows: Sequence[Row]) -> str:
    """Name attacks in a sentence: by what they are, where the label of the command line says no more."""
    names = []
    for row in rows:
        kind = row.method.partition(" ")[0].lower()
        short = row.title.partition(", ")[0] if row.title != row.name else row.method
        alone = kind and row.name.startswith(kind) and [one.method for one in rows].count(row.method) == 1
        long = f"{row.title} ({row.method})" if kind == "autoattack" else row.title
        names.append(short if alone else long)
    *first, last = names
    under = f"{', '.join(first)} and {last}" if first else last
    return under if len(names) <= NAMED else f"{len(names)} attacks"


def sentence(table: Table, group: Group, bounds: Tensor | None) -> str:
    """Say in one sentence what the attacks of a threat come to."""
    if group.unlimited:
        return _distance_text(table, group)
    under = _called(group.same(table.rows))
    right = group.right(table.rows)
    low, high = (percent(end) for end in clopper_pearson(right, table.n))
    share = percent(right / table.n)
    audited = " before the audit" * bool(table.audits)
    sure = f"Robust accuracy{audited} {share} (95% interval {low} to {high})"
    begun = f"At most {share}" if table.lead else sure
    where = f"within {group.rows[0].within}" if group.threat else UNTOLD
    narrower, one = _narrower(group), "s" if table.n == 1 else ""
    stay = f"hold{one}" if narrower else f"stay{one} correct"
    text = f"{begun} {where}: {right:,} of {several(table.n, 'sample')} {stay} under {under}{narrower}"
    if bounds is None or group.threat is None or not group.whole:
        return f"{text}."
    proved = (table.correct & (bounds >= float(group.threat.radius))).double().mean().item()
    return f"{text}, and {percent(proved)} are proved to."


def _known(table: Table, group: Group) -> NDArray[Any]:
    """Return the distances of samples with finite logits."""
    distance = group.nearest(table.rows)
    return distance[~distance.isnan()].numpy()


def _narrower(group: Group) -> str:
    """Say what a success was, where a wrong class was not enough."""
    wanted = dict.fromkeys(row.asked for row in group.rows if row.asked)
    return f"; {NARROWER.format(' or '.join(wanted))}" if wanted else ""


def _distance_text(table: Table, group: Group) -> str:
    """Say at which distance the attacks without a budget break half of the samples."""
    known = _known(table, group)
    middle = median(known) if len(known) else math.nan
    searched = [row for row in group.same(table.rows) if row.minimum_norm or row.unlimited]
    under = f"by {_called(searched)}{_narrower(group)}."
    if not math.isfinite(middle):
        fewer = f"was found for fewer than half of {several(table.n, 'sample')}"
        return f"An adversarial example in {group.symbol} {fewer}, {under}"
    low, high = (number(end).replace("inf", "∞") for end in bootstrap(known, median))
    return (
        f"Median distance to an adversarial example {number(middle)} in {group.symbol} (95% interval {low} "
        f"to {high}), over {several(len(known), 'sample')}, found {under}"
    )


def standards(table: Table) -> str:
    """Say what the rows are to NIST AI 100-2 E2025 and to Article 15 of the EU AI Act; "" without rows."""
    kinds: dict[str, list[str]] = {}
    for row in (row for row in table.rows if not row.refused):
        card, moved = REGISTRY.get(row.attack), row.attack in ("grey_box", "transfer")
        known = "transfer" if moved else card.knowledge if card is not None else ""
        kinds.setdefault(EVASION[known], []).append(row.title)
    rows = [f"{kind} ({', '.join(titles)})" for kind, titles in kinds.items()]
    if not rows:
        return ""
    faults = "; of common corruptions, which are faults, in paragraph 4" * (table.corruption is not None)
    return (
        f"In the terms of NIST AI 100-2 E2025 this page measures {'; '.join(rows)}. Article 15 of Regulation "
        f"(EU) 2024/1689 asks for such figures in paragraph 5, as adversarial examples or evasion{faults}. "
        "Poisoning, privacy and extraction are not measured, and a figure is no statement of conformity."
    )


def signs(table: Table) -> list[dict[str, str]]:
    """Return all signs, those that are raised first; none where nobody looked."""
    seen = table.indicators
    if seen is None:
        return []
    shown = []
    for name, sign in SIGNS.items():
        value = f"{number(seen.values.get(name))}, raised above {sign.limit:g}"
        state, advice = "clear", seen.unseen.get(name, "")
        if name in seen.flagged:
            state, advice = "raised", seen.advice.get(name, "")
        elif name in seen.unseen:
            state, value = "not looked at", ""
        shown.append({"name": name, "state": state, "means": sign.words, "value": value, "advice": advice})
    return sorted(shown, key=lambda sign: ("raised", "not looked at", "clear").index(sign["state"]))
