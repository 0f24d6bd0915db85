"""The result of an evaluation: figures with named denominators, and the samples behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """The first samples that an attack broke: x and x_adv [N, ...], y, the clean and the adversarial predictions, ids [N]."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    clean_prediction: Tensor
    prediction: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Row:
    """One attack: for each of the n samples whether it broke it, and at which distance.

    broken is true for a sample that the model got right and the attack turned; distance is 0 where the model was wrong already
    and inf where nothing was found. failed counts the samples on which the attack met non-finite numbers, unmoved those on which
    every gradient was zero (masked, or flat): none of them is broken, but neither are they shown to be robust.
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

    @property
    def robust_accuracy(self) -> float:
        """Share of ALL samples that are classified correctly and stay so."""
        return (self.correct & ~self.broken).float().mean().item()

    @property
    def success_rate(self) -> float:
        """Share of the INITIALLY CORRECT samples that the attack broke; nan where the model got none right."""
        right = int(self.correct.sum())
        return int(self.broken.sum()) / right if right else math.nan

    @property
    def median_distance(self) -> float:
        """Median over ALL samples: 0 for those already wrong, inf for those that held."""
        return float(np.median(self.distance.double().numpy()))

    @property
    def mean_distance(self) -> float:
        """Mean over the BROKEN samples; nan where there are none."""
        return self.distance[self.broken].double().mean().item()


@dataclass(frozen=True)
class Table:
    """A model under attacks. `str(table)` is plain text, `markdown()` a table for a page, `to_dict()` is JSON-able."""

    rows: tuple[Row, ...]
    correct: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    seconds: float

    @property
    def n(self) -> int:
        """The number of samples."""
        return len(self.correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of all samples that are classified correctly without an attack."""
        return self.correct.float().mean().item()

    @property
    def held(self) -> Tensor:
        """[n] bool: correct without an attack and under every one of them."""
        held = self.correct.clone()
        for row in self.rows:
            held &= ~row.broken
        return held

    @property
    def worst_case(self) -> float:
        """Robust accuracy when for each sample the strongest of the attacks counts; the clean accuracy where there are none."""
        return self.held.float().mean().item()

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
            "seconds": self.seconds,
            "attacks": {
                row.name: {
                    "robust_accuracy": row.robust_accuracy,
                    "success_rate": _finite(row.success_rate),
                    "median_distance": _finite(row.median_distance),
                    "mean_distance": _finite(row.mean_distance),
                    "failed": row.failed,
                    "unmoved": row.unmoved,
                    "forwards": row.forwards,
                    "backwards": row.backwards,
                    "seconds": row.seconds,
                }
                for row in self.rows
            },
        }

    def _cells(self) -> list[list[str]]:
        head = ["attack", "accuracy", "broken", "median", "mean", "forwards", "backwards", "seconds"]
        doubts = [name for name in ("failed", "unmoved") if any(getattr(row, name) for row in self.rows)]
        lines = [head + doubts]
        lines.append(["none", _percent(self.clean_accuracy)] + [""] * (len(lines[0]) - 2))
        for row in self.rows:
            figures = [
                _percent(row.robust_accuracy),
                _percent(row.success_rate),
                _number(row.median_distance),
                _number(row.mean_distance),
            ]
            spent = [f"{row.forwards:,}", f"{row.backwards:,}", f"{row.seconds:.1f}"]
            lines.append([row.name, *figures, *spent] + [str(getattr(row, name)) for name in doubts])
        if len(self.rows) > 1:
            lines.append(["worst of all", _percent(self.worst_case)] + [""] * (len(lines[0]) - 2))
        return lines

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        text = [_aligned(line, widths, "  ").rstrip() for line in cells]
        note = f"{self.n} samples; accuracy over all, broken over the initially correct, median distance over all, mean over the broken"
        return "\n".join([text[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *text[1:], note])

    def markdown(self) -> str:
        """The same as a Markdown table."""
        cells = self._cells()
        rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
        return "\n".join(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
            for line in [cells[0], rule, *cells[1:]]
        )


def _aligned(line: Sequence[str], widths: Sequence[int], gap: str) -> str:
    return gap.join(
        cell.rjust(width) if i else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
