"""What to cite for the attacks that ran: the papers that their docstrings name, as BibTeX."""

import inspect
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

from fastadv.attacks.core.card import REGISTRY
from fastadv.evaluation.row import Row


def bibtex(rows: Sequence[Row]) -> list[str]:
    """Return the entries of these attacks, and of the components of those that have some, by their keys."""
    cited = {f"eprint = {{{paper}}}" for row in rows for paper in _papers(row)}
    text = files("fastadv.evaluation.report").joinpath("papers.bib").read_text(encoding="utf-8")
    return [entry.strip() for entry in text.split("\n\n") if any(paper in entry for paper in cited)]


def _papers(row: Row) -> Iterator[str]:
    """Yield arXiv numbers. What a docstring names for L1, or a version, counts for these alone."""
    parts = () if row.components is None else row.components.costs
    names = [row.method.partition(" ")[0].lower(), *(part.split()[-1].partition("-")[0] for part in parts)]
    about = [*row.method.split()[1:], row.threat.symbol if row.threat else ""]
    for run in (REGISTRY[name].run for name in names if name in REGISTRY):
        for clause in re.split(r";\s+", (inspect.getdoc(run) or "").partition("Source:")[2]):
            if not clause.startswith("for ") or any(word and word in clause for word in about):
                yield from re.findall(r"arXiv\s+(\d+\.\d+)", clause)
