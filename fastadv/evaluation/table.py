"""The result of an evaluation: its attacks side by side, the worst of them, and what must be known."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.attacks.core.result import LEAD, failed_flags
from fastadv.attacks.masking import Indicators
from fastadv.engine.module import in_words
from fastadv.errors import InputError
from fastadv.evaluation.audit import Audited
from fastadv.evaluation.corruption import CorruptionTable
from fastadv.evaluation.draws import NOTE, Draws
from fastadv.evaluation.draws import cells as drawn_cells
from fastadv.evaluation.export import Exported
from fastadv.evaluation.row import COLUMNS, COSTS, COUNTS, Components, Row, Samples, groups, worst_draws
from fastadv.evaluation.sums import Sums, figure, figure_text, worst
from fastadv.intervals import Interval, of_share
from fastadv.text import Cells, ends, finite, percent, several

FIGURES = ("accuracy", "broken", "median_distance", "mean_distance")  # of a row, as records name them
SHARES_OF = "over all samples, broken over the initially correct"
DISTANCES_OF = "; median distance over all samples with finite logits, mean distance over the broken"
INTERVALS = "in brackets: the 95% bootstrap interval of the median; unbroken samples count as inf"
UNSERVED = "no attack serves it"
SCREEN = "The screen is not enough for this model."
INTERVAL_95 = "95%: where other samples of their kind would lie; audited: where these samples lie"


@dataclass(frozen=True)
class Table(Exported):
    """The results of a model under attacks.

    `str(table)` is plain text, `to_dict()` a dictionary for JSON, and `table[name]` the `Row` of an attack.
    `to_latex()`, `to_csv()` and `to_pandas()` give it to papers and other programs.

    Attributes:
        rows: one `Row` for each attack, in the order given.
        correct: bool [n]; classified correctly without an attack.
        failed: bool [n]; the model gives logits that are not all finite. Such a sample has no prediction: it
            counts as not correct, and no attack is run on it.
        ids: int64 [n], positions in the data set.
        y: int64 [n], labels; None where they are no classes.
        seconds: elapsed time of the evaluation.
        probing: the part of it that the probes of the verdict took.
        samples: every sample with its nearest adversarial example, if they were kept.
        replaced: the modules whose gradient `fastadv.models.bpda` has replaced, by name, each with what it is
            of.
        indicators: signs of masked gradients; None without attacks, or where they were not asked for.
        draws: the model's draws at each clean x, where there were several.
        criterion: says which samples are right.
        sums: what the criterion counts beside the accuracy at each clean x.
        remarks: what casts doubt on labels or model without an attack; they begin the verdict.
        corruption: the accuracy under common corruptions, if they were asked for.
        unserved: the threats in which none of the attacks ran, so that no worst of all is known.
        chosen: which samples they are, where they are not the first ones.
        by_norm: where attacks are of several norms, the same as `samples` over those of each, by the
            `Threat.metric`.
        audits: of each threat, what an audit found among the samples that hold, if it was asked for.

    Example:
        >>> from functools import partial
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> attacks = {"FGSM": partial(fa.attacks.fgsm, threat=fa.Linf(0.1))}
        >>> table = fa.evaluate(model, digits, attacks, limit=50)
        >>> table.n, table.rows[0].name, table.worst_case == table["FGSM"].robust_accuracy
        (50, 'FGSM', True)
    """

    rows: tuple[Row, ...]
    correct: Tensor = field(repr=False)
    failed: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    seconds: float
    samples: Samples | None = field(default=None, repr=False)
    replaced: Mapping[str, str] = field(default_factory=dict)
    indicators: Indicators | None = field(default=None, repr=False)
    draws: Draws | None = field(default=None, repr=False)
    criterion: Criterion = field(default=WRONG, repr=False)
    sums: Sums = field(default_factory=dict, repr=False)
    remarks: Sequence[str] = field(default=(), repr=False)
    corruption: CorruptionTable | None = field(default=None, repr=False)
    chosen: str = ""
    unserved: Sequence[str] = ()
    audits: Sequence[Audited] = ()
    by_norm: Mapping[str, Samples] = field(default_factory=dict, repr=False)
    y: Tensor | None = field(default=None, repr=False)
    probing: float = 0.0
    costs = COSTS

    @property
    def audit(self) -> Audited | None:
        """The audit of the one threat; None where none was asked for."""
        if len(self.audits) > 1:
            raise InputError(f"audit: expected one threat, got {len(self.audits)}; read table.audits")
        return self.audits[0] if self.audits else None

    @property
    def lead(self) -> str:
        """What the robust accuracies are not, where a sign is raised or an audit broke many; else ""."""
        raised = "" if self.indicators is None else self.indicators.lead
        weak = next((LEAD.format(audit.weak) for audit in self.audits if audit.weak), "")
        return raised or weak

    @property
    def unknown(self) -> str:
        """In which threats no attack ran; "" where some ran in each."""
        where = " and ".join(self.unserved)
        return where and f"No robust accuracy is known in {where}, nor a worst of all: {UNSERVED}."

    @property
    def headline(self) -> str:
        """What comes before any robust accuracy where a sign is raised, or a threat unserved; else ""."""
        known = self.lead and not math.isnan(self.worst_case)
        kind = "" if self.draws is None else " of one draw"
        most = f"At most {percent(self.worst_case)}{kind}." if known else ""
        if self.lead and self.audits:
            most = " ".join(f"{audit.ends} in {audit.within}, of these samples." for audit in self.audits)
        return " ".join(filter(None, (self.lead, most, self.unknown)))

    @property
    def asides(self) -> list[str]:
        """What was audited, and which attacks did not run."""
        refused = [f"{row.published}: not run: {row.refused}" for row in self.rows if row.refused]
        return [*map(str, self.audits), *refused]

    @property
    def verdict(self) -> str:
        """Whether the robust accuracies can be trusted; "" without indicators, unless an audit denies it."""
        seen = "" if self.indicators is None else self.indicators.verdict
        return f"{SCREEN} {seen}".rstrip() if self.lead and self.audits else seen

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of all samples that are classified correctly without an attack; of several draws the mean."""
        return self.draws.one_draw if self.draws is not None else self.correct.double().mean().item()

    @property
    def held(self) -> Tensor:
        """bool [n]; correct without an attack and within the radius of every attack that has one.

        An attack without a radius counts as far as it broke samples within that of another of its norm.
        """
        budgets = [group.held(self.rows) for group in groups(self.rows) if not group.unlimited]
        return torch.stack([self.correct, *budgets]).all(0)

    @property
    def worst_case(self) -> float:
        """Robust accuracy when the strongest attack counts for each sample: the share of `held`.

        NaN where no attack has a radius, or none serves some threat; the clean accuracy without attacks. With
        several draws it is that of one draw at the x_adv which is right in the fewest of them.
        """
        if self.unserved:
            return math.nan
        if (drawn := worst_draws(self.rows)) is not None:
            return drawn.one_draw
        limited = not self.rows or any(not group.unlimited for group in groups(self.rows))
        return self.held.double().mean().item() if limited else math.nan

    @property
    def at_most(self) -> float:
        """The worst case, or what an audit leaves of it."""
        return min([self.worst_case, *(audit.high for audit in self.audits)])

    @property
    def worst_cases(self) -> dict[str, float]:
        """The worst case by name: of attacks in several norms that of each norm, then the union."""
        budgets = [group for group in groups(self.rows) if not group.unlimited]
        if len({group.threat.norm for group in budgets if group.threat is not None}) < 2:
            return {"worst of all": self.worst_case}
        several = [group for group in budgets if group.whole and len(group.rows) > 1]
        by_norm = {f"worst in {one.rows[0].within}": one.right(self.rows) / self.n for one in several}
        return by_norm | {"union": self.worst_case}

    @property
    def intervals(self) -> dict[str, Interval]:
        """The exact 95% intervals of the clean accuracy, "none", and of the worst cases."""
        shares = {"none": self.clean_accuracy, **self.worst_cases}
        return {name: of_share(share, self.n) for name, share in shares.items()}

    @property
    def extra(self) -> dict[str, float]:
        """The figures that the criterion adds, without an attack, by name; each row has its own."""
        return {name: figure(name, sums) for name, sums in self.sums.items()}

    @property
    def worst_extra(self) -> dict[str, float]:
        """The same where each sample may be that of any attack, chosen one after the other."""
        rows = () if self.unserved else self.rows
        return {name: worst([row.sums[name] for row in rows], name) for name in self.sums if rows}

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r}: expected one of {[row.name for row in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON, in which a radius is null where there is none."""
        worst_extra = self.worst_extra
        return {
            "n": self.n,
            "clean_accuracy": self.clean_accuracy,
            "worst_case": finite(self.worst_case),
            "worst_cases": {name: finite(share) for name, share in self.worst_cases.items()},
            "intervals": {name: [*map(finite, both)] for name, both in self.intervals.items()},
            "unserved": list(self.unserved),
            "audits": [audit.to_dict() for audit in self.audits],
            "failed": int(self.failed.sum()),
            "seconds": self.seconds,
            "bpda": dict(self.replaced),
            "indicators": self.indicators and {**self.indicators.to_dict(), "verdict": self.verdict},
            "draws": _as_dict(self.draws),
            "corruption": _as_dict(self.corruption),
            "extra": {name: [value, worst_extra.get(name)] for name, value in self.extra.items()},
            "attacks": [
                {
                    "label": row.name,
                    "attack": row.attack,
                    "norm": row.threat and f"{row.threat.norm}{row.apart}",
                    "radius": row.threat and finite(float(row.threat.radius)),
                    "moving": row.moving,
                    **{name: finite(value) for name, value in row.figures().items()},
                    "accuracy_interval": self._share(row.figures()["robust_accuracy"])["95%"],
                    "minimum_norm": row.minimum_norm,
                    "median_interval": [*map(finite, row.median_interval)] if row.minimum_norm else None,
                    **{name: getattr(row, name) for name in COUNTS},
                    "flags": list(row.flags),
                    "remarks": list(row.remarks),
                    "refused": row.refused,
                    "components": _as_dict(row.components),
                    "draws": _as_dict(row.draws),
                    "extra": row.extra,
                }
                for row in self.rows
            ],
        }

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the table as dictionaries: shares from 0 to 1, None for what is missing."""
        failed = int(self.failed.sum())
        lines = [{"attack": "none", **self._share(self.clean_accuracy), "failed": failed} | self.extra]
        lines[0] |= _drawn(self.draws)
        for row in self.rows:
            norm, radius = row.threat and row.threat.norm, row.threat and finite(float(row.threat.radius))
            figures = dict(zip(FIGURES, map(finite, row.figures().values()), strict=True))
            counts = {name: getattr(row, name) for name in COUNTS}
            line = {"attack": row.published, "norm": norm, "radius": radius}
            figures |= self._share(row.figures()["robust_accuracy"])
            why = {"refused": row.refused} if row.refused else {}
            lines.append(line | figures | counts | row.extra | _drawn(row.draws) | why)
        if self._compared:
            lines += [{"attack": name, **self._share(share)} for name, share in self.worst_cases.items()]
            lines[-1] |= _drawn(worst_draws(() if self.unserved else self.rows))
        lines += [audit.record() for audit in self.audits]
        lead = {"headline": text} if (text := self.headline) else {}
        return [line | lead for line in lines] + (self.corruption.records() if self.corruption else [])

    def paper_tables(self) -> dict[str, list[list[str]]]:
        if self.corruption is None:
            return {"": self.paper_cells()}
        attacked = {"": self.paper_cells()} if self.rows else {}
        return attacked | {self.corruption.title: self.corruption.cells(self.clean_accuracy)}

    def paper_cells(self) -> list[list[str]]:
        head, none, *lines = self.cells()
        named = zip(self.rows, lines, strict=False)
        lines[: len(self.rows)] = [[row.published, *line[1:]] for row, line in named]
        if self.draws is not None:
            head = [head[0], "one draw", *head[2:], "majority", f"worst of {self.draws.count}"]
            for line, record in zip((none, *lines), self.records(), strict=False):
                line += [percent(record[name]) if name in record else "-" for name in _drawn(self.draws)]
        return [head, none, *lines]

    def cells(self) -> list[list[str]]:
        """Return the table as text."""
        head = ["attack", self.criterion.counted, *COLUMNS[1:], *self.extra]
        sure = {name: ends(*interval) for name, interval in self.intervals.items()}
        failed = str(int(self.failed.sum()))
        first = ["none", percent(self.clean_accuracy), sure["none"], *[""] * 6, failed, ""]
        lines = [[*first, *starmap(figure_text, self.extra.items())]]
        for row in self.rows:
            extra = ["-" if row.refused else figure_text(*pair) for pair in row.extra.items()]
            lines.append([row.title, *row.cells().values(), *extra])
        if self._compared:
            extra = [*starmap(figure_text, self.worst_extra.items())]
            blank = [""] * (len(head) - 3)
            lines += [[name, percent(share), sure[name], *blank] for name, share in self.worst_cases.items()]
            lines[-1][len(head) - len(extra) :] = extra
        for audit in self.audits:
            name = f"{audit.title}, {audit.within}" if len(self.audits) > 1 else audit.title
            line = [name, audit.ends, "", "", "", "", *audit.spent]
            lines.append(line + [""] * (len(head) - len(line)))
        # columns of doubt, and of distances, only where there are some
        cells_of = [{*cells} - {"", "-", "0"} for cells in zip(*lines, strict=True)]
        shown = [place for place, values in enumerate(cells_of) if values or place in (0, 1, 2, 3, 6, 7, 8)]
        return [[line[place] for place in shown] for line in [head, *lines]]

    @property
    def _compared(self) -> bool:
        """Whether the table ends with the worst of several attacks, known or not."""
        return len(self.rows) > 1 and (bool(self.unserved) or not math.isnan(self.worst_case))

    def _share(self, share: float) -> dict[str, Any]:
        """Return an accuracy with its interval as a record has them, None for NaN."""
        low, high = map(finite, of_share(share, self.n))
        return {"accuracy": finite(share), "95%": None if low is None else [low, high]}

    @property
    def setting(self) -> str:
        """What the figures are of, such as "50 samples, L∞ 0.1"."""
        threats = dict.fromkeys(row.within for row in self.rows if row.threat is not None)
        return ", ".join([several(self.n, "sample"), *threats])

    def notes(self) -> list[str]:
        """Return what must be known to read the figures."""
        distances = any(not math.isnan(row.figures()["median_distance"]) for row in self.rows)
        counted = self.criterion.counted
        counted = counted if counted == "accuracy" else f'"{counted}"'
        notes = [f"{self.setting}; {counted} {SHARES_OF}{DISTANCES_OF * distances}"]
        ended = any(bool((row.broken | ~row.correct).any()) for row in self.rows)
        if self.sums and self.criterion.whole and ended:
            notes.append(
                f"{', '.join(self.sums)}: attacks can reach worse, since a search ends at its first success; "
                f"criterion={self.criterion.whole} searches on"
            )
        texts = [
            self.chosen,
            in_words(self.replaced),
            INTERVALS * any(row.minimum_norm for row in self.rows),
            NOTE * (self.draws is not None),
        ]
        notes += filter(None, texts)
        if self.probing > max(1.0, self.seconds / 10):
            notes.append(
                f"{self.seconds:.1f} seconds in all, {self.probing:.1f} for the probes of the verdict"
            )
        for audit in self.audits:
            notes += [str(audit), *(f"audit, {audit.within}: {flag}" for flag in audit.flags)]
        notes += [INTERVAL_95] * bool(self.audits)
        notes += failed_flags(int(self.failed.sum()), 0, self.n)
        notes += self.remarks if self.indicators is None else ()
        said: dict[str, list[str]] = {}
        for row in self.rows:
            refused = (f"not run: {row.refused}",) if row.refused else ()
            for remark in (*refused, *row.flags, *row.remarks):
                said.setdefault(remark, []).append(row.title)
        notes += [f"{', '.join(titles)}: {remark}" for remark, titles in said.items()]
        for row in self.rows:
            if row.unmoved and row.ran:
                notes.append(
                    f"unmoved: {row.title} met only zero gradients on {several(row.unmoved, 'sample')}; "
                    "the model may mask its gradients, and the accuracy may be too high"
                )
        return notes

    def contents(self) -> list[str | Cells]:
        parts = [part for name, cells in self.details().items() for part in (f"\n{name}", cells)]
        end = ["", self.verdict] if self.verdict else []
        return [*filter(None, [self.headline]), self.cells(), *self.notes(), *parts, *end]

    def details(self) -> dict[str, list[list[str]]]:
        """Return more tables: of corruptions, the draws, and the components of each attack that has some."""
        parts = {row.title: row.components.cells() for row in self.rows if row.components is not None}
        if self.corruption is not None:
            parts = {self.corruption.title: self.corruption.cells(self.clean_accuracy)} | parts
        if self.draws is None:
            return parts
        drawn = [("none", self.draws)]
        drawn += [(row.title, row.draws) for row in self.rows if row.draws is not None]
        worst_of_all = worst_draws(() if self.unserved else self.rows)
        if len(drawn) > 2 and worst_of_all is not None:
            drawn.append(([*self.worst_cases][-1], worst_of_all))
        return {f"each sample classified {self.draws.count} times": drawn_cells(drawn), **parts}


def _drawn(draws: Draws | None) -> dict[str, float]:
    return {} if draws is None else {"majority": draws.majority, "worst_draw": draws.worst}


def _as_dict(part: Indicators | Draws | Components | CorruptionTable | None) -> dict[str, Any] | None:
    return None if part is None else part.to_dict()
