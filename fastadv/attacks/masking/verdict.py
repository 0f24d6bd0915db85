"""The indicators of an evaluation, and the verdict they come to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastadv.attacks.core.result import LEAD
from fastadv.attacks.masking.flags import SIGNS
from fastadv.text import several

CLEAN = "No sign of masking"
SHOWN = 3  # signs that did not run, by name
INCOMPLETE = "The loss still rises at the end: more steps may break more."
BLACK_BOX = "no gradient (a black box); searched by queries alone"
UNSEARCHED = "no gradient (a black box); run square or hopskipjump, 500 queries or more"
STAND_IN = "the gradient is a stand-in; run square, 500 queries or more"  # beside gradients


@dataclass(frozen=True)
class Indicators:
    """Signs of masked gradients and what they come to; `str` is a table of it.

    Attributes:
        values: by name, between 0 and 1: a share of samples, or 1 for a yes.
        unseen: by name, why an indicator was not looked at.
        samples: how many samples were probed, besides what the results of the attacks say.
        forwards: samples passed forward for it.
        backwards: samples for which an input gradient was computed for it.
        lower: by name, the lower end of the 95% interval of a share of samples, which counts instead of the
            value; 0 for Square where attacks by gradients break as many that it leaves, but for chance, and
            for a randomized model that was attacked and judged as one.
        remarks: what must be known first, such as that the model predicts one class for all images.
    """

    values: Mapping[str, float]
    unseen: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0
    forwards: int = 0
    backwards: int = 0
    lower: Mapping[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def flagged(self) -> tuple[str, ...]:
        """The indicators above their limit, the strongest first; a share by the lower end of its interval."""
        counted = {**self.values, **self.lower}
        return tuple(name for name in SIGNS if counted.get(name, 0.0) > SIGNS[name].limit)

    @property
    def advice(self) -> dict[str, str]:
        """What to do about each that is flagged."""
        advice = {name: SIGNS[name].advice for name in self.flagged}
        if "randomized" in advice and BLACK_BOX in self.unseen.values():
            advice["randomized"] = "classify each sample several times (draws=20)"
        return advice

    @property
    def clean(self) -> bool:
        """Whether all indicators were looked at, none is flagged, and the attacks came to an end."""
        return not self.flagged and not self.unseen and INCOMPLETE not in self.remarks

    @property
    def black_box(self) -> bool:
        """Whether the model has no gradient to mask, was searched by queries, and shows no sign."""
        return not self.flagged and BLACK_BOX in self.unseen.values()

    @property
    def lead(self) -> str:
        """What comes before a robust accuracy where a sign is raised; "" where none is."""
        return next((LEAD.format(SIGNS[name].words.partition(":")[0]) for name in self.flagged), "")

    @property
    def verdict(self) -> str:
        """No sign, or what did not run, in one line; or a line for each sign, and what to do next."""
        first = "".join(f"{remark} " for remark in self.remarks)
        probed = f" ({several(self.samples, 'sample')} probed)" if self.samples else ""
        if self.flagged:
            count = several(len(self.flagged), "sign")
            lines = [f"{name}: {SIGNS[name].words}" for name in self.flagged]
            next_step = f"Next: {self.advice[self.flagged[0]]}"
            return "\n".join([f"{first}Do not trust ({count}).", *lines, next_step])
        if not self.unseen:
            clean = CLEAN.replace("sign", "other sign") if self.values.get("randomized") else CLEAN
            return f"{first}{clean}{probed}"
        reasons: dict[str, list[str]] = {}
        for name, why in self.unseen.items():
            reasons.setdefault(why, []).append(name)
        if whole := {BLACK_BOX, UNSEARCHED}.intersection(reasons):
            return f"{first}Inconclusive: {whole.pop()}"
        begun = f": {STAND_IN}" if reasons.pop(STAND_IN, None) else ", no flag so far"
        groups = (
            f"{', '.join(names) if len(names) <= SHOWN else f'{len(names)} checks'} ({why})"
            for why, names in reasons.items()
        )
        return f"{first}Inconclusive{begun}{probed}{'; did not run: ' * bool(reasons)}{'; '.join(groups)}"

    def with_flags(self, names: Collection[str]) -> "Indicators":
        """Return the same indicators with these flagged, whatever their value."""
        raised = {name: 1.0 for name in names if name not in self.flagged}
        unseen = {name: why for name, why in self.unseen.items() if name not in raised}
        values, lower = {**self.values, **raised}, {**self.lower, **raised}
        return replace(self, values=values, unseen=unseen, lower=lower)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the verdict, what is flagged, and the advice, for JSON."""
        derived = {"verdict": self.verdict, "flagged": list(self.flagged), "advice": self.advice}
        return {**derived, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{'indicator':18}  {'value':>8}  {'at least':>8}  limit  what it means"]
        for name, sign in SIGNS.items():
            value, least = (f"{of[name]:.3g}" if name in of else "-" for of in (self.values, self.lower))
            means = f"did not run: {self.unseen[name]}" if name in self.unseen else sign.words
            lines.append(f"{name:18}  {value:>8}  {least:>8}  {sign.limit:5g}  {means}")
        return "\n".join([*lines, self.verdict])
