"""Results as papers and other programs take them: LaTeX, CSV, pandas."""

import csv
import importlib
import io
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from fastadv._extras import need
from fastadv.attacks.core.card import REGISTRY
from fastadv.errors import InputError
from fastadv.files import write_text
from fastadv.text import Printable

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


class Exported(Printable):
    """A result that other programs can read."""

    headline = property(lambda self: "")  # what must be known before any figure
    asides = property(lambda self: [])  # what LaTeX says in comments, besides
    costs: tuple[str, ...] = ()  # heads of columns that LaTeX has where they are asked for

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Return a dictionary of plain values for each line: shares from 0 to 1, None for what is missing."""

    @abstractmethod
    def paper_cells(self) -> list[list[str]]:
        """Return the table as text, with names as papers write them; cells[0] is its head."""

    def paper_tables(self) -> dict[str, list[list[str]]]:
        """Return what goes to papers by its title: the table, and what belongs to it."""
        return {"": self.paper_cells()}

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
            columns: the heads of those to keep after the first; None, the default, keeps all but passes and
                seconds.

        Returns:
            A tabular: names as papers write them, figures to the right; above it, in comments, the headline,
            which attacks did not run, and what an audit says. Where corruptions were measured, theirs follows.

        Raises:
            InputError: the table has no such column.
        """
        (title, cells), *more = self.paper_tables().items()
        head = cells[0][1:]
        if missing := [name for name in columns or () if name not in head]:
            raise InputError(f"columns: expected some of {head}, got {missing}")
        kept = [name for name in head if name not in self.costs] if columns is None else columns
        first = _tabular(cells, [self.headline, *self.asides, title], [0, *(cells[0].index(n) for n in kept)])
        return "\n".join([first, *(_tabular(cells, [title]) for title, cells in more)])

    def to_pandas(self) -> Any:
        """Return the figures as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        need("pandas")
        return importlib.import_module("pandas").DataFrame(self.records())


def _tabular(cells: list[list[str]], above: Sequence[str], places: Sequence[int] | None = None) -> str:
    """Return a tabular of the columns at these places, all for None, below comments."""
    places = range(len(cells[0])) if places is None else places
    head, *lines = (" & ".join(_latex(line[place]) for place in places) + r" \\" for line in cells)
    rows = [r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    frame = rf"\begin{{tabular}}{{l{'r' * (len(places) - 1)}}}", r"\end{tabular}"
    comments = [f"% {' '.join(text.split())}" for text in above if text]
    return "\n".join([*comments, frame[0], *rows, frame[1], ""])


def _latex(text: str) -> str:
    return "--" if text == "-" else "".join(LATEX.get(one, one) for one in text)
