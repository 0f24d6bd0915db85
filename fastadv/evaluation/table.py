"""The result of an evaluation: figures with named denominators, and the samples behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv.evaluation._text import number, percent
from fastadv.evaluation.bootstrap import Interval, bootstrap, median

DENOMINATORS = (
    "accuracy over all samples, broken over the initially correct; "
    "median distance over all samples with finite logits, mean distance over the broken"
)


@dataclass(frozen=True)
class Examples:
    """The first samples that an attack broke.

    x and x_adv [N, ...], y, the clean and the adversarial predictions, ids [N].
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    clean_prediction: Tensor
    prediction: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Samples:
    """Every sample with the nearest of the adversarial examples that the attacks gave.

    x, x_adv [N, ...], y, ids [N]. x_adv is x where no attack broke the sample.
    success    bool [N]; broken, or wrong already.
    status     int64 [N] of `fastadv.attacks.Status`; FAILED where the model's logits for x are not finite, or
               where no attack broke the sample and one met numbers that are not finite.
    distance   float64 [N]; of x_adv where broken, 0 where the model was wrong already, else inf.
    by         int64 [N]; the attack that gave x_adv, as its place among the rows; -1 where none did. Of
               attacks that come equally near it is the first.
    distances  float64 [N, A]; those of each attack, as in its row.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    ids: Tensor
    success: Tensor
    status: Tensor
    distance: Tensor
    by: Tensor
    distances: Tensor

    @classmethod
    def together(cls, parts: Sequence["Samples"]) -> "Samples":
        """The samples of all parts, in their order."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True)
class Row:
    """One attack: for each of the n samples whether it broke the sample, and at which distance.

    correct   bool [n]; the model classifies the clean sample correctly.
    broken    bool [n]; it does, and the attack changed that.
    distance  float64 [n]; of the adversarial example where broken, 0 where the model was wrong already, inf
              where the attack did not succeed, NaN where the model's logits for the clean sample are not
              finite.
    failed    correct samples that the attack did not break because it met numbers that are not finite.
    unmoved   correct samples that it did not break because every gradient was zero: masked, or flat.
    minimum_norm   whether the attack minimizes the distance, as far as that is known: it is one of
              `fastadv.attacks`.

    Samples counted in `failed` and `unmoved` are not broken, but nothing shows that they are robust: the
    robust accuracy, which includes them, may be too high by as many.
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
    examples: Examples | None = field(default=None, repr=False)
    minimum_norm: bool = False

    @property
    def robust_accuracy(self) -> float:
        """Share of ALL samples that are classified correctly without the attack and under it."""
        return (self.correct & ~self.broken).double().mean().item()

    @property
    def success_rate(self) -> float:
        """Share of the INITIALLY CORRECT samples that the attack broke; NaN where there are none."""
        right = int(self.correct.sum())
        return int(self.broken.sum()) / right if right else math.nan

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
        """The 95% bootstrap interval of the robust accuracy."""
        return bootstrap((self.correct & ~self.broken).numpy())

    @property
    def mean_distance(self) -> float:
        """Mean over the BROKEN samples; NaN where there are none."""
        return self.distance[self.broken].mean().item()


@dataclass(frozen=True)
class Table:
    """A model under attacks.

    `str(table)` is plain text, `markdown()` a table for a page, `to_dict()` is JSON-able.

    correct  bool [n]; classified correctly without an attack.
    failed   bool [n]; the model gives logits that are not all finite. Such a sample has no prediction: it
             counts as not correct, and no attack is run on it.
    ids      int64 [n]; positions in the data set.
    samples  every sample with its nearest adversarial example, if they were kept.
    """

    rows: tuple[Row, ...]
    correct: Tensor = field(repr=False)
    failed: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    seconds: float
    samples: Samples | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of all samples that are classified correctly without an attack."""
        return self.correct.double().mean().item()

    @property
    def held(self) -> Tensor:
        """[n] bool: correct without an attack and under every one of them."""
        held = self.correct.clone()
        for row in self.rows:
            held &= ~row.broken
        return held

    @property
    def worst_case(self) -> float:
        """Robust accuracy when the strongest attack counts for each sample; without any, the clean one."""
        return self.held.double().mean().item()

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r}: expected one of {[row.name for row in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures; null stands for a distance that is infinite or undefined (no sample broken)."""
        return {
            "n": self.n,
            "clean_accuracy": self.clean_accuracy,
            "worst_case": self.worst_case,
            "failed": int(self.failed.sum()),
            "seconds": self.seconds,
            "attacks": {
                row.name: {
                    "robust_accuracy": row.robust_accuracy,
                    "success_rate": _finite(row.success_rate),
                    "median_distance": _finite(row.median_distance),
                    "mean_distance": _finite(row.mean_distance),
                    "minimum_norm": row.minimum_norm,
                    "median_interval": [*map(_finite, row.median_interval)] if row.minimum_norm else None,
                    "failed": row.failed,
                    "unmoved": row.unmoved,
                    "forwards": row.forwards,
                    "backwards": row.backwards,
                    "seconds": row.seconds,
                }
                for row in self.rows
            },
        }

    def cells(self) -> list[list[str]]:
        """The table as text, line by line: head, no attack, each attack, and the worst of several."""
        head = ["attack", "accuracy", "broken", "median", "mean", "forwards", "backwards", "seconds"]
        head += ["failed", "unmoved"]
        lines = [["none", percent(self.clean_accuracy), *[""] * 6, str(int(self.failed.sum())), ""]]
        for row in self.rows:
            lines.append(
                [
                    row.name,
                    percent(row.robust_accuracy),
                    percent(row.success_rate),
                    _with_interval(row) if row.minimum_norm else number(row.median_distance),
                    number(row.mean_distance),
                    f"{row.forwards:,}",
                    f"{row.backwards:,}",
                    f"{row.seconds:.1f}",
                    str(row.failed),
                    str(row.unmoved),
                ]
            )
        if len(self.rows) > 1:
            lines.append(["worst of all", percent(self.worst_case), *[""] * (len(head) - 2)])
        # columns of doubt only where there is some
        shown = [
            place
            for place in range(len(head))
            if place < 8 or any(line[place] not in ("", "0") for line in lines)
        ]
        return [[line[place] for place in shown] for line in [head, *lines]]

    def notes(self) -> list[str]:
        """What must be known to read the figures: the denominators, and why some samples prove nothing."""
        notes = [f"{self.n} samples; {DENOMINATORS}"]
        if any(row.minimum_norm for row in self.rows):
            notes.append("median in brackets: its 95% bootstrap interval; inf where samples were not broken")
        lost = int(self.failed.sum())
        if lost:
            notes.append(
                f"failed: for {lost} of {self.n} samples the model's logits are not finite; "
                "they count as not correct and are not attacked"
            )
        for row in self.rows:
            if row.failed:
                notes.append(
                    f"failed: {row.name} met numbers that are not finite on {row.failed} samples "
                    "and did not break them; its accuracy may be too high"
                )
            if row.unmoved:
                notes.append(
                    f"unmoved: {row.name} met only zero gradients on {row.unmoved} samples; "
                    "the model may mask its gradients, and the accuracy may be too high"
                )
        return notes

    def __str__(self) -> str:
        cells = self.cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        text = [_aligned(line, widths, "  ").rstrip() for line in cells]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([text[0], rule, *text[1:], *self.notes()])

    def markdown(self) -> str:
        """The same as a Markdown table, with the notes below it."""
        cells = self.cells()
        rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
        lines = [
            "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
            for line in [cells[0], rule, *cells[1:]]
        ]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes())])


def _aligned(line: Sequence[str], widths: Sequence[int], gap: str) -> str:
    return gap.join(
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )


def _with_interval(row: Row) -> str:
    low, high = map(number, row.median_interval)
    return f"{number(row.median_distance)} [{low}, {high}]"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
