"""Several models side by side on the same samples, and how sure their differences are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.evaluation.export import Exported
from fastadv.evaluation.row import groups, worst_draws
from fastadv.evaluation.table import Table
from fastadv.intervals import Interval, mcnemar, of_difference
from fastadv.text import Cells, finite, percent, several

SEEDS = "±: standard deviation over seeds; the interval is over samples, of these nets"
UNKNOWN = "not known, as with a radius for each sample, and so not compared: the threats of {}"


@dataclass(frozen=True)
class Difference:
    """How much more often one model is right than the first one, under the worst of all attacks.

    Attributes:
        mean: the difference of their accuracies; above 0 this model is right more often.
        interval: its 95% interval: where it would lie for other samples of their kind.
        alone: samples on which this model is right, and the first is not; None with several seeds or draws.
        first_alone: samples on which the first is right, and this model is not.
        p: of McNemar's exact test, that two equal models differ at least so unevenly.
    """

    mean: float
    interval: Interval
    alone: int | None = None
    first_alone: int | None = None
    p: float | None = None

    def cells(self) -> list[str]:
        """Return it as text: the difference with its interval, who is right alone, and p."""
        mean, low, high = (f"{100 * value:+.1f}" for value in (self.mean, *self.interval))
        tested = ["-", "-"] if self.p is None else [f"{self.alone} to {self.first_alone}", f"{self.p:.2g}"]
        return [f"{mean} [{low}, {high}]", *tested]


@dataclass(frozen=True, eq=False)
class Comparison(Exported):
    """Models side by side: `print` shows them, and `to_latex` has a row for each.

    Attributes:
        tables: those of each model by its name, one for each seed.
        differences: of each model from the first one, by its name.
    """

    tables: Mapping[str, Sequence[Table]]
    differences: Mapping[str, Difference]

    @property
    def headline(self) -> str:
        """What must be known of some model before any figure; "" for nothing."""
        raised = {f"{name}: {table.headline}": table.headline for name, table in self._each()}
        return " ".join(text for text, headline in raised.items() if headline)

    @property
    def asides(self) -> list[str]:
        """What the figures are."""
        (first, table), *_ = self._each()
        what = (
            f"difference: from {first} under the worst of all attacks, in points, with its paired 95% "
            f"interval; alone: samples on which this model, or {first}, alone is right; p: McNemar's exact "
            "test"
        )
        rows = [(name, row) for name, table in self._each() for row in table.rows]
        unknown = dict.fromkeys(f"{name} ({row.title})" for name, row in rows if row.threat is None)
        lacks = [UNKNOWN.format(", ".join(unknown))] * bool(unknown)
        return [table.setting, *lacks, what, *[SEEDS] * any(len(own) > 1 for own in self.tables.values())]

    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary for each model: means over its seeds, their deviations, the difference."""
        lines = []
        for name, tables in self.tables.items():
            line: dict[str, Any] = {"model": name, "seeds": len(tables)}
            for column in self._columns():
                shares = [_shares(table).get(column, math.nan) for table in tables]
                line[column] = finite(float(np.mean(shares)))
                if len(tables) > 1 and line[column] is not None:
                    line[f"{column} deviation"] = float(np.std(shares, ddof=1))
            if (other := self.differences.get(name)) is not None:
                line |= {"difference": other.mean, "95%": [*other.interval], "alone": other.alone}
                line |= {"first alone": other.first_alone, "p": other.p}
            lines.append(line)
        return lines

    def paper_cells(self) -> list[list[str]]:
        columns = self._columns()
        cells = [["model", *columns, "difference", "alone", "p"]]
        for line in self.records():
            cells.append([line["model"]])
            for column in columns:
                text, deviation = percent(line[column]), line.get(f"{column} deviation")
                cells[-1].append(text if deviation is None else f"{text[:-1]} ± {100 * deviation:.1f}%")
            other = self.differences.get(line["model"])
            cells[-1] += ["-"] * 3 if other is None else other.cells()
        return cells

    def _each(self) -> list[tuple[str, Table]]:
        return [(name, table) for name, tables in self.tables.items() for table in tables]

    def _columns(self) -> list[str]:
        """Return the names of the figures: without an attack, under those of any model, and the worst."""
        tables = [table for _, table in self._each()]
        ran = (row.published for table in tables for row in table.rows)
        worst = (name for table in tables for name in table.worst_cases if len(table.rows) > 1)
        return [*dict.fromkeys(["clean", *ran, *worst])]

    def contents(self) -> list[str | Cells]:
        return [*filter(None, [self.headline]), self.paper_cells(), *self.asides]


def compare(tables: Mapping[str, Table | Sequence[Table]]) -> Comparison:
    """Put the evaluations of several models on the same samples side by side.

    Each model is compared with the first one, sample by sample, which says more than two intervals: most
    samples are right, or wrong, under both.

    Args:
        tables: what `fa.evaluate` returned for each model, by its name, in the same threats on the same
            samples; for several seeds of a training, a list of tables. Attacks may differ. Samples are told
            by number and label: that their images are the same is for you to see to.

    Returns:
        The `Comparison`: `print` shows it, `to_latex`, `to_csv` and `to_pandas` give it to papers and
        programs, and `differences` has the figures.

    Raises:
        InputError: there are fewer than two models, samples or threats differ, or no worst case is known.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> nets = [fa.models.create("softmax", shape=digits.shape, seed=seed) for seed in (0, 1)]
        >>> one, other = (fa.evaluate(net, digits, "fgsm", threat=fa.Linf(0.1)) for net in nets)
        >>> difference = fa.evaluation.compare({"one": one, "other": other}).differences["other"]
        >>> difference.mean == (difference.alone - difference.first_alone) / 50
        True

    Source:
        McNemar 1947, "Note on the Sampling Error of the Difference between Correlated Proportions or
        Percentages"; Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial
        Proportions Based on Paired Data".
    """
    if not isinstance(tables, Mapping) or len(tables) < 2:
        raise InputError(
            f"tables: expected those of two models or more by their names, got a {type(tables).__name__} of "
            f"{len(tables)}; pass them as {{'first': a, 'second': b}}"
        )
    listed = {name: _seeds(name, own) for name, own in tables.items()}
    first, *others = listed
    for name, own in listed.items():
        for table in own:
            _check_same(name, table, first, listed[first][0])
    return Comparison(listed, {name: _difference(listed[name], listed[first]) for name in others})


def _seeds(name: str, own: Any) -> tuple[Table, ...]:
    """Return the tables of one model."""
    seeds = (own,) if isinstance(own, Table) else (*own,) if isinstance(own, Iterable) else ()
    found = sum(isinstance(one, Table) for one in seeds)
    if not seeds or found < len(seeds):
        raise InputError(
            f"tables: expected what fa.evaluate returned for {name}, or a list of tables, one for each seed, "
            f"got a {type(own).__name__} with {several(found, 'table')}; evaluate the model first"
        )
    return seeds


def _check_same(name: str, table: Table, first: str, other: Table) -> None:
    if math.isnan(table.worst_case):
        raise InputError(
            f"tables: expected an accuracy under attack of every model, got none of {name}; evaluate it "
            "under an attack with a radius that serves the threat"
        )
    if not all(map(torch.equal, _in_order(table), _in_order(other))):
        raise InputError(
            f"tables: expected the same samples for all, got others for {name} than for {first}; evaluate "
            "all on one set, with one limit"
        )
    if (asked := _asked(table)) != (wanted := _asked(other)):
        raise InputError(
            f"tables: expected the same threats for all, got {sorted(asked.values())} for {name} and "
            f"{sorted(wanted.values())} for {first}; evaluate all in the same"
        )


def _in_order(table: Table) -> tuple[Tensor, Tensor]:
    """Return ids int64 [n], ascending, and the labels in this order, [n] or none."""
    order = table.ids.argsort()
    return table.ids[order], order[:0] if table.y is None else table.y[order]


def _asked(table: Table) -> dict[Any, str]:
    """Return the threats with a radius in words, by what tells them apart."""
    rows = [group.rows[0] for group in groups(table.rows) if not group.unlimited]
    known = ((row.threat and (row.threat.metric, float(row.threat.radius)), row) for row in rows)
    return {(ball, row.asked, row.moving, table.criterion): row.within for ball, row in known}


def _difference(own: Sequence[Table], first: Sequence[Table]) -> Difference:
    here, there = (torch.stack([_right(table) for table in tables]).mean(0) for tables in (own, first))
    values = here - there
    mean, interval = float(values.mean()), of_difference(values.numpy())
    if len(own) > 1 or len(first) > 1 or own[0].draws or first[0].draws:
        return Difference(mean, interval)
    alone, first_alone = int((values > 0).sum()), int((values < 0).sum())
    return Difference(mean, interval, alone, first_alone, mcnemar(alone, first_alone))


def _right(table: Table) -> Tensor:
    """Return float64 [n] by ascending ids: whether a sample holds, or in which share of the draws."""
    drawn = worst_draws(table.rows)
    right = table.held.double() if drawn is None else drawn.right.double() / drawn.count
    return right[table.ids.argsort()]


def _shares(table: Table) -> dict[str, float]:
    attacks = {row.published: row.figures()["robust_accuracy"] for row in table.rows}
    return {"clean": table.clean_accuracy, **attacks, **table.worst_cases}
