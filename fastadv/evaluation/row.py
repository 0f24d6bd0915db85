"""What one attack did to all samples, in figures with named denominators; attacks by their threat."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.masking.flags import Cost
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.export import published
from fastadv.evaluation.sums import Sums, figure
from fastadv.intervals import Interval, bootstrap, median, of_share
from fastadv.measure.outcome import NOT_RUN
from fastadv.text import ends, number, percent, threat_text, with_interval
from fastadv.threat import Threat

# figures of a row, in the order in which they are told
SHARES = ("robust_accuracy", "success_rate", "median_distance", "mean_distance")
COUNTS = ("failed", "unmoved", "forwards", "backwards", "seconds")
COSTS = COUNTS[2:]
COLUMNS = ("accuracy", "95%", "broken", "median", "mean", *COSTS, *COUNTS[:2])


@dataclass(frozen=True)
class Components:
    """The components of an attack that consists of others, such as AutoAttack."""

    by: Tensor = field(repr=False)  # int64 [n], the place among `costs` of what broke a sample; -1 for none
    costs: Mapping[str, Cost]  # what each component did, by its name and in the order of their runs

    def by_any_of(self, names: Collection[str]) -> Tensor:
        """Return bool [n], the samples that some of the components broke."""
        return torch.tensor([*(name in names for name in self.costs), False], device="cpu")[self.by]

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as a dictionary for JSON."""
        return {name: asdict(cost) for name, cost in self.costs.items()}

    def cells(self) -> list[list[str]]:
        """Return the costs as text, line by line, the head first."""
        lines = [["component", "samples", "broken", "forwards", "backwards", "seconds"]]
        for name, cost in self.costs.items():
            *counts, seconds = astuple(cost)
            lines.append([name, *(f"{count:,}" for count in counts), f"{seconds:.1f}"])
        return lines


@dataclass(frozen=True)
class Samples:
    """Every sample with the nearest of the adversarial examples that the attacks found.

    status is FAILED where the model's logits for x are not finite, or where no attack broke the sample and
    one met numbers that are not finite. Of attacks with equal distances, the first counts.
    """

    x: Tensor  # [N, ...], clean
    x_adv: Tensor  # x itself where no attack broke the sample
    y: Tensor  # int64 [N]
    ids: Tensor  # int64 [N], positions in the data set, or in the part of it that was loaded
    success: Tensor  # bool [N]; broken, or already wrong
    status: Tensor  # int64 [N] of `fastadv.attacks.Status`
    distance: Tensor  # float64 [N], of x_adv where broken, 0 where already wrong, else inf
    by: Tensor  # int64 [N], the row whose attack found x_adv; -1 for none
    component: Tensor  # int64 [N], its place among the row's `components.costs`; -1 for none
    distances: Tensor  # float64 [N, A], those of each attack, as in its row


@dataclass(frozen=True)
class Row:
    """The results of one attack: for each of the n samples, whether it was broken and at which distance.

    Samples counted in `failed` and `unmoved` are not broken, but nothing shows that they are robust: the
    robust accuracy, which includes them, may be too high by as many.

    Attributes:
        name: of the attack.
        correct: bool [n]; the model classifies the clean sample correctly.
        broken: bool [n]; it does, and the attack changed that; both by one verdict.
        distance: float64 [n], of the adversarial example where broken, 0 where the model was already wrong,
            inf where the attack did not succeed, NaN where the model's logits for the clean sample are not
            finite.
        failed: correct samples that the attack did not break because it met numbers that are not finite.
        unmoved: correct samples that it did not break because every gradient was zero: masked, or flat.
        forwards: samples passed forward.
        backwards: samples for which an input gradient was computed.
        seconds: elapsed time of the attack, on all samples.
        minimum_norm: whether the attack minimizes the distance, as far as that is known: it is one of
            `fastadv.attacks`.
        flags: warnings that cast doubt on the result, as in `fastadv.attacks.AttackResult`.
        remarks: notes of the attack on what it did and left out.
        components: which component broke each sample, where the attack consists of others.
        draws: the model's draws at each x_adv, where there were several; accuracies are then of one draw.
        clean: the draws at each x.
        threat: the ball and box of the attack, with one radius for all samples; None where that is not known.
        attack: the name of its function, whatever the row is called.
        method: the published name of an attack of `fastadv.attacks`, with the version of AutoAttack, or "".
        sums: what the criterion counts beside the accuracy at each x_adv, such as pixels that are right.
        heading: what tables and reports call it instead of the name; "" for none.
        asked: what a success had to be besides any wrong class, such as a target; "" for nothing.
        moving: the share of the values of x that a mask let change; 1 without one.
        apart: what tells its threat from another of the same name, such as another box; "" where none is.
        refused: why the attack does not serve the threat, so that it has no accuracy; "" if it does.
    """

    name: str
    correct: Tensor = field(repr=False)
    broken: Tensor = field(repr=False)
    distance: Tensor = field(repr=False)
    failed: int
    unmoved: int
    forwards: int
    backwards: int
    seconds: float
    minimum_norm: bool = False
    flags: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    components: Components | None = field(default=None, repr=False)
    draws: Draws | None = field(default=None, repr=False)
    threat: Threat | None = field(default=None, repr=False)
    attack: str = field(default="", repr=False)
    method: str = ""
    sums: Sums = field(default_factory=dict, repr=False)
    heading: str = field(default="", repr=False)
    clean: Draws | None = field(default=None, repr=False)
    refused: str = ""
    asked: str = ""
    moving: float = 1.0
    apart: str = ""

    @property
    def whole(self) -> bool:
        """Whether any wrong class at any point of the threat was a success."""
        return not self.asked and self.moving == 1

    @property
    def ran(self) -> bool:
        """Whether it serves the threat and had the gradients that it needs."""
        return not (self.refused or any(flag.startswith(NOT_RUN) for flag in self.flags))

    @property
    def within(self) -> str:
        """The threat and the part of x that was searched, in words."""
        digits = 0 if self.moving >= 0.1 else 1
        part = f" on {percent(self.moving, digits)} of the values" if self.moving < 1 else ""
        return f"{threat_text(self.threat)}{self.apart}{part}"

    @property
    def title(self) -> str:
        """What tables and reports call it."""
        return self.heading or self.name

    @property
    def published(self) -> str:
        """What papers call it, where it has the name of its function, with the symbol of its norm."""
        own = self.heading or self.name.partition(" ")[0] != self.attack
        end = self.name.removeprefix(self.attack)
        name = self.title if own else published(f"{self.method or self.attack}{end}")
        if self.threat is None:
            return name
        return re.sub(rf" {type(self.threat).__name__}(?= |$)", f" {self.threat.symbol}", name)

    @property
    def robust_accuracy(self) -> float:
        """Share of ALL samples that are right without the attack and that it did not break; of one draw."""
        if self.refused:
            return math.nan
        if self.draws is not None:
            return self.draws.one_draw
        return (self.correct & ~self.broken).double().mean().item()

    @property
    def unlimited(self) -> bool:
        """Whether the attack had an infinite radius, at which an accuracy says nothing."""
        return self.threat is not None and not self.threat.finite

    @property
    def success_rate(self) -> float:
        """Share of the INITIALLY CORRECT samples that the attack broke; NaN where there are none."""
        if self.refused:
            return math.nan
        if self.clean is not None:
            before = self.clean.one_draw
            return max(0.0, 1 - self.robust_accuracy / before) if before else math.nan
        right = int(self.correct.sum())
        return int(self.broken.sum()) / right if right else math.nan

    @property
    def broken_at(self) -> Tensor:
        """The distances, of an example in the attack's ball at most its radius, whatever rounding adds."""
        if self.threat is None:
            return self.distance
        return self.distance.where(~self.broken, self.distance.clamp_max(float(self.threat.radius)))

    @property
    def median_distance(self) -> float:
        """Median over ALL samples with finite logits: 0 for those already wrong, inf for those not broken."""
        return median(self.distance[~self.distance.isnan()].numpy())

    @property
    def median_interval(self) -> Interval:
        """The 95% bootstrap interval of the median distance; its ends may be infinite."""
        return bootstrap(self.distance[~self.distance.isnan()].numpy(), median)

    @property
    def accuracy_interval(self) -> Interval:
        """The exact 95% interval of the robust accuracy (Clopper and Pearson); NaN where there is none."""
        return of_share(self.robust_accuracy, len(self.correct))

    @property
    def mean_distance(self) -> float:
        """Mean over the BROKEN samples; NaN where there are none."""
        return self.distance[self.broken].mean().item()

    @property
    def extra(self) -> dict[str, float]:
        """The figures that the criterion adds, such as a mean IoU, by name."""
        return {name: figure(name, sums) for name, sums in self.sums.items()}

    def figures(self) -> dict[str, float]:
        """Return the figures that say something, by name."""
        if self.refused:
            return dict.fromkeys(SHARES, math.nan)
        kept = {name: getattr(self, name) for name in SHARES}
        dropped = ["robust_accuracy"] * self.unlimited
        if not (self.minimum_norm or self.unlimited):
            dropped += ["median_distance", "mean_distance"]
        return kept | dict.fromkeys(dropped, math.nan)

    def cells(self) -> dict[str, str]:
        """Return the figures as text, by their columns."""
        figures = self.figures()
        median = number(figures["median_distance"])
        if self.minimum_norm:
            median = with_interval(number, self.median_distance, self.median_interval)
        robust = figures["robust_accuracy"]
        shares = percent(robust), ends(*of_share(robust, len(self.correct))), percent(self.success_rate)
        spent = f"{self.forwards:,}", f"{self.backwards:,}", f"{self.seconds:.1f}"
        texts = *shares, median, number(figures["mean_distance"]), *spent, str(self.failed), str(self.unmoved)
        return dict(zip(COLUMNS, texts, strict=True))


def component_of(by: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return int64 [N], the component of the row `by` that found x_adv; -1 for none."""
    component = torch.full_like(by, -1)
    for place, row in enumerate(rows):
        if row.components is not None:
            component = row.components.by.where(by == place, component)
    return component


@dataclass(frozen=True)
class Group:
    """The attacks of one threat, None where it is not known."""

    threat: Threat | None
    rows: tuple[Row, ...]

    @property
    def whole(self) -> bool:
        """Whether the threat is known, and any wrong class at any point of it was a success."""
        return self.threat is not None and self.rows[0].whole

    @property
    def unlimited(self) -> bool:
        """Whether the attacks had no budget."""
        return self.rows[0].unlimited

    @property
    def symbol(self) -> str:
        """The threat in a word, with what tells it from another of that name."""
        return f"{self.threat.symbol}{self.rows[0].apart}" if self.threat else ""

    def same(self, rows: Sequence[Row]) -> list[Row]:
        """Return those of all attacks whose distances are comparable with those of the group."""
        if self.threat is None:
            return list(self.rows)
        asked = _goal(self.rows[0])
        rows = [row for row in rows if comparable(row.threat, self.threat) and not row.refused]
        return [row for row in rows if _goal(row) == asked]

    def nearest(self, rows: Sequence[Row]) -> Tensor:
        """Return float64 [n], the distance of the nearest adversarial example; NaN as in a row."""
        return torch.stack([row.broken_at for row in self.same(rows)]).amin(0)

    def right(self, rows: Sequence[Row]) -> int:
        """Return how many samples stay right; with several draws the mean, rounded."""
        drawn = worst_draws(self.rows)
        return int(self.held(rows).sum()) if drawn is None else round(drawn.one_draw * len(drawn.right))

    def held(self, rows: Sequence[Row]) -> Tensor:
        """Return bool [n]: correct, and broken by no attack within this radius, whatever its own."""
        held = self.rows[0].correct & ~torch.stack([row.broken for row in self.rows]).any(0)
        if self.threat is None or self.unlimited:
            return held
        inside: Tensor = self.nearest(rows) <= self.threat.edge(self.threat.radius)
        return held & ~inside


def _goal(row: Row) -> tuple[str, float]:
    return row.asked, row.moving


def worst_draws(rows: Sequence[Row]) -> Draws | None:
    """Return the worst, for each sample, of the draws of all attacks with a radius."""
    drawn = [row.draws for row in rows if row.draws is not None and not row.unlimited]
    return Draws.together(drawn) if drawn else None


def comparable(one: Threat | None, other: Threat | None) -> bool:
    """Return whether distances in both are of the same metric."""
    return one is not None and other is not None and one.metric == other.metric


def told_apart(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows, where threats of one name do not do the same with what tells them apart."""
    first: dict[str, dict[str, tuple[Row, Threat]]] = {}  # by name and metric
    for row in rows:
        if row.threat is not None:
            first.setdefault(row.threat.symbol, {}).setdefault(row.threat.metric, (row, row.threat))

    def apart(threat: Threat | None) -> str:
        alike = {} if threat is None else first[threat.symbol]
        if threat is None or len(alike) == 1:
            return ""
        if len({other.box for _, other in alike.values()}) == len(alike):
            return " in [{:g}, {:g}]".format(*threat.box)
        titles = {row.title for row, _ in alike.values()}
        row, _ = alike[threat.metric]
        return f" ({row.title if len(titles) == len(alike) else row.name})"

    return tuple(replace(row, apart=apart(row.threat)) for row in rows)


def groups(rows: Sequence[Row]) -> list[Group]:
    """Return the attacks by threat, those with a budget first."""
    by_ball: dict[object, list[Row]] = {}
    for row in rows:
        if row.refused:
            continue
        threat = row.threat
        ball = threat and (threat.metric, float(threat.radius), *_goal(row))
        by_ball.setdefault(ball, []).append(row)
    known = [Group(rows[0].threat, tuple(rows)) for rows in by_ball.values()]
    return sorted(known, key=lambda one: (one.unlimited or not one.whole, not one.whole))
