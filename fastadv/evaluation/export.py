"""Results as papers and other programs take them: LaTeX, CSV, pandas, and means over seeds."""

import csv
import importlib
import io
import os
import statistics
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastadv._extras import need
from fastadv.attacks.core.card import REGISTRY
from fastadv.errors import InputError
from fastadv.intervals import of_share
from fastadv.runs.files import write_text
from fastadv.text import aligned, ends, percent, several

# how papers write what `upper` does not
SPELLED = {
    "autoattack": "AutoAttack", "boundary": "Boundary", "cw": "C&W", "deepfool": "DeepFool",
    "hopskipjump": "HopSkipJump", "lbfgs": "L-BFGS", "pointwise": "Pointwise", "segpgd": "SegPGD",
    "sigma_zero": "σ-zero", "sparse_rs": "Sparse-RS", "square": "Square", "superdeepfool": "SuperDeepFool",
}  # fmt: skip
# characters with a meaning in LaTeX, and those that its fonts lack
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "±": r"$\pm$",
    "σ": r"$\sigma$", "≤": r"$\le$", "≥": r"$\ge$", "×": r"$\times$",
}  # fmt: skip


def published(name: str) -> str:
    """Return an attack's name as papers write it; with the version of AutoAttack, if it has one."""
    attack, *rest = name.split(" ")
    short = attack.upper() if attack in REGISTRY and len(attack) <= 5 else attack.replace("_", " ")
    return " ".join([SPELLED.get(attack, short), *rest])


class Exported:
    """A result that other programs can read."""

    headline = property(lambda self: "")  # what must be known before any figure
    asides = property(lambda self: [])  # what LaTeX says in comments, besides

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary of plain values for each line: shares from 0 to 1, None for what is missing."""

    @abstractmethod
    def paper_cells(self) -> list[list[str]]:
        """Return the table as text, with names as papers write them; cells[0] is its head."""

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the figures as comma-separated values.

        Args:
            path: also write them to this file.

        Returns:
            A line for the head and one for each record; shares from 0 to 1, nothing for what is missing.
        """
        records, file = self.records(), io.StringIO()
        heads = dict.fromkeys(name for one in records for name in one)
        writer = csv.DictWriter(file, [*heads], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        if path is not None:
            write_text(path, file.getvalue())
        return file.getvalue()

    def to_latex(self, columns: Sequence[str] | None = None) -> str:
        r"""Return the table as LaTeX, which needs \usepackage{booktabs}.

        Args:
            columns: the heads of those to keep after the first; None, the default, keeps all.

        Returns:
            A tabular: names as papers write them, figures to the right; above it, in
            comments, the headline and which attacks did not run.

        Raises:
            InputError: the table has no such column.
        """
        head, *lines = self.paper_cells()
        if missing := [name for name in columns or () if name not in head[1:]]:
            raise InputError(f"columns: expected some of {head[1:]}, got {missing}")
        places = [0, *(range(1, len(head)) if columns is None else map(head.index, columns))]
        texts = [" & ".join(_latex(line[place]) for place in places) + r" \\" for line in (head, *lines)]
        rows = [r"\toprule", texts[0], r"\midrule", *texts[1:], r"\bottomrule"]
        frame = rf"\begin{{tabular}}{{l{'r' * (len(places) - 1)}}}", r"\end{tabular}"
        above = [f"% {' '.join(text.split())}" for text in (self.headline, *self.asides) if text]
        return "\n".join([*above, frame[0], *rows, frame[1], ""])

    def to_pandas(self) -> Any:
        """Return the figures as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        need("pandas")
        return importlib.import_module("pandas").DataFrame(self.records())


def _latex(text: str) -> str:
    return "--" if text == "-" else "".join(LATEX.get(one, one) for one in text)


@dataclass(frozen=True)
class OverSeeds(Exported):
    """Accuracies of several tables of the same attacks; `print` shows mean and deviation.

    Attributes:
        samples: in each table.
        accuracy: by the name of a line ("none", each attack, the worst of all), one share for each table.
        headline: of how many tables the accuracies are not robust ones, and why; "" of none.
    """

    accuracy: dict[str, tuple[float, ...]]
    headline: str = ""
    samples: int = 0

    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary for each line: mean, deviation (n - 1), the least and the largest, and n."""
        lead = {"headline": self.headline} if self.headline else {}
        return [
            {
                "attack": name, "mean": statistics.fmean(shares), "deviation": statistics.stdev(shares),
                "least": min(shares), "most": max(shares), "seeds": len(shares),
                "95%": list(of_share(statistics.fmean(shares), self.samples)), **lead,
            }
            for name, shares in self.accuracy.items()
        ]  # fmt: skip

    def paper_cells(self) -> list[list[str]]:
        lines = [["attack", "accuracy", "95%", "least"]]
        for one in self.records():
            accuracy = f"{percent(one['mean'])} ± {100 * one['deviation']:.1f}"
            lines.append([one["attack"], accuracy, ends(*one["95%"]), percent(one["least"])])
        return lines

    def __str__(self) -> str:
        (count,) = {len(shares) for shares in self.accuracy.values()}
        over = f"mean and standard deviation over {several(count, 'table')}; 95%: of the mean, over images"
        return f"{self.headline}\n{aligned(self.paper_cells())}\n{over}".lstrip()


def over_seeds(tables: Sequence[Any]) -> OverSeeds:
    """Return the mean and the deviation of accuracies over tables, as of models trained with several seeds.

    Args:
        tables: two `Table` or more, of the same attacks and threats on the same samples, which are known by
            their numbers. Lines without an accuracy, as of a search for the nearest example, are left out.

    Returns:
        An `OverSeeds`.

    Raises:
        InputError: fewer than two tables, or tables of other attacks, threats or samples, or two lines alike.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> nets = [fa.models.create("softmax", shape=digits.shape, seed=seed) for seed in (0, 1)]
        >>> tables = [fa.evaluate(net, digits, "fgsm", threat=fa.Linf(0.1), limit=50) for net in nets]
        >>> [*fa.evaluation.over_seeds(tables).accuracy]
        ['none', 'FGSM']
    """
    if not isinstance(tables, Sequence) or len(tables) < 2:
        raise InputError(f"tables: expected a list of two or more, got {type(tables).__name__}")
    lines = [table.records() for table in tables]
    kinds = [[(one["attack"], one.get("norm"), one.get("radius")) for one in each] for each in lines]
    for table, kind in zip(tables, kinds, strict=True):
        if kind != kinds[0] or not torch.equal(table.ids, tables[0].ids):
            (one, other), count = ([_kind(*line) for line in each] for each in (kinds[0], kind)), table.n
            raise InputError(
                f"tables: expected the same attacks, threats and samples in all, got {', '.join(one)} of "
                f"{tables[0].n} samples, and {', '.join(other)} of {count}"
            )
    alone = [one for one, *_ in kinds[0]]
    names = [one[0] if alone.count(one[0]) == 1 else _kind(*one) for one in kinds[0]]
    if len({*names}) < len(names):
        raise InputError(f"tables: expected lines with names of their own, got {names}")
    columns = zip(*([one["accuracy"] for one in each] for each in lines), strict=True)
    known = zip(names, columns, strict=True)
    doubts = [why for table, each in zip(tables, lines, strict=True) if (why := _doubts(table, each))]
    whole = " ".join(dict.fromkeys(text for why in doubts for text in why))
    of = f"{len(doubts)} of {several(len(tables), 'table')}: {whole}" * bool(doubts)
    return OverSeeds({name: shares for name, shares in known if None not in shares}, of, tables[0].n)


def _doubts(table: Any, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what casts doubt on a table's accuracies, or leaves one out."""
    lead = table.indicators.lead if table.indicators else ""
    refused = (f"{one['attack']} did not run: {one['refused']}." for one in lines if "refused" in one)
    return [*filter(None, [lead]), *refused]


def _kind(attack: str, norm: str | None, radius: float | None) -> str:
    return " ".join([attack, *([norm] if norm else []), *([f"{radius:g}"] if radius is not None else [])])
