"""A finished evaluation as one HTML file, which needs nothing beside it: no script, no font, no request.

`template.html` and `style.css` say how it looks, the modules beside this one what it holds.
"""

import inspect
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._checks import knowing
from fastadv._extras import need
from fastadv._version import __version__
from fastadv.attacks.core import Criterion
from fastadv.attacks.core.card import REGISTRY
from fastadv.card import machine
from fastadv.data.imageset import UNIT
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation.curve import Curve
from fastadv.evaluation.report import chart, grid, pictures, verdict
from fastadv.evaluation.row import Group, Row, Samples, groups
from fastadv.evaluation.table import Table
from fastadv.files import atomic_write, writing
from fastadv.hashes import data_hash
from fastadv.text import percent, with_interval

BATCH = 256


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path; InputError unless it ends in .html, MissingExtraError where jinja2 is missing."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"path: expected a name ending in .html, got {str(path)!r}")
    need("jinja2")
    return Path(path)


@knowing
def report(
    table: Table, path: str | os.PathLike[str], *, title: str = "Robustness report",
    model: nn.Module | Prepared | None = None, class_names: Sequence[str] | None = None,
    curves: Mapping[str, Curve] | None = None, bounds: Tensor | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a finished evaluation as one HTML file, which needs nothing beside it.

    In order: the verdict, signs of masked gradients, each attack, corruptions if there were some, accuracy
    against radius, attacks by classes, samples at the median distance, the hardest samples, cost, what to
    cite, provenance. What the table does not hold is left out, and the page says so;
    `fa.evaluate(..., keep_samples=True)` holds most.

    Args:
        table: what `evaluate` returned, of at least one sample.
        title: the heading of the page.
        path: a name that ends in .html; the file is whole or absent.
        model: the model of the table, for predictions of adversarial examples, margins of clean ones, and
            the hash of its weights.
        class_names: of all classes, in order; else the page has their numbers.
        curves: accuracy against radius by the name of the attack, from `accuracy_against_radius`. Those of
            minimum-norm attacks are drawn without.
        bounds: [n] radii within which the decision is proved, as from `ABS.lower_bound`, in the norm of the
            attacks; drawn where there is one norm.
        provenance: what made the table, such as the command and the seed; texts, numbers, and mappings of
            them. "command" is shown as the line that runs it again. Versions, machine and hashes are added.

    Raises:
        InputError: no table, or one without samples, bounds of another length, or another ending of the name.
        MissingExtraError: jinja2 is missing.
        OSError: the file cannot be written.
    """
    path = check_path(path)
    if not isinstance(table, Table):
        raise InputError(
            f"table: expected what fa.evaluate returned, got {type(table).__name__}; write report(table, "
            "path, model=model), once for each model"
        )
    if table.n == 0:
        raise InputError("table: expected one of at least one sample, got none; evaluate some first")
    if bounds is not None and (bounds.shape != (table.n,) or bounds.isnan().any()):
        raise InputError(
            f"bounds: expected [{table.n}], a radius for each sample of the table, got {list(bounds.shape)}"
            + (" with NaN" if bounds.isnan().any() else "")
        )
    if table.criterion.outputs == "any":  # the page shows samples by their classes
        table = replace(table, samples=None, by_norm={})
    frozen = None if model is None else prepare(model, outputs=table.criterion.outputs)
    content = _content(table, frozen, class_names, curves or {}, bounds)
    texts = _provenance(table, frozen, provenance or {})
    again = (provenance or {}).get("command")
    text = _filled(title=title, again=again, table=table, provenance=texts, **content)
    with writing(path), atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _logits(frozen: Prepared, x: Tensor) -> Tensor:
    """Return what the model as given says of x, in batches."""
    return torch.cat([frozen.verdict(part.to(frozen.device)).cpu() for part in torch.split(x, BATCH)])


def _margins(kept: Samples | None, frozen: Prepared | None, names: Sequence[str] | None) -> Tensor | None:
    """Return the margin of each x; None without a model."""
    if frozen is None or kept is None:
        return None
    clean = _logits(frozen, kept.x)
    if names is not None and len(names) != (number := clean.shape[1]):
        raise InputError(f"class_names: expected {number}, got {len(names)}; name every class")
    return Criterion().margin(clean, kept.y, None)


def _content(
    table: Table, frozen: Prepared | None, names: Sequence[str] | None, curves: Mapping[str, Curve],
    bounds: Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Gather what the page shows."""
    margins = _margins(table.samples, frozen, names)
    grouped = groups(table.rows)
    main = grouped[0].threat if grouped else None
    norms: dict[object, Group] = {}
    for group in grouped:
        threat = group.threat if group.whole else None
        norms.setdefault(threat and threat.metric, group)
    alone = len(norms) == 1
    bounds = bounds if alone else None
    unit = table.samples is None or bool(((table.samples.x >= 0) & (table.samples.x <= 1)).all())
    box = main.box if main is not None else UNIT if unit else (-math.inf, math.inf)

    def shots(kept: Samples | None, box: tuple[float, float] = box) -> dict[str, Any] | str:
        seen = None if frozen is None or kept is None else _logits(frozen, kept.x_adv).argmax(1)
        return pictures.gallery(kept, seen, names, box)

    galleries = {
        group.symbol: shots(kept, group.threat.box)
        for group in norms.values()
        if group.threat is not None and (kept := table.by_norm.get(group.threat.metric)) is not None
    }
    drawn = [chart.chart(table, group, curves, bounds) for group in norms.values()]
    several = "the attacks are of several norms, whose distances cannot be compared"
    return {
        "clean": with_interval(percent, table.clean_accuracy, table.intervals["none"]),
        "plain": [text for group in grouped if (text := verdict.plainly(table, group))],
        "sentences": [verdict.sentence(table, group, bounds) for group in grouped]
        + [f"{audit}." for audit in table.audits],
        "signs": verdict.signs(table),
        "standards": verdict.standards(table),
        "attacks": grid.attacks(table),
        "corrupted": table.corruption,
        "charts": [drawing for drawing in drawn if drawing is not None],
        "heat": grid.heat(table, names, main),
        "galleries": galleries or {"": shots(table.samples) if alone else several},
        "hard": pictures.hardest(table, margins, names, box, farthest=alone),
        "costs": grid.costs(table),
        "bibtex": bibtex(table.rows),
    }


def _provenance(table: Table, model: Prepared | None, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the caller says, then hashes of the samples and the weights, and what wrote the report."""
    texts = [*_flat(about)]
    if table.samples is not None:
        texts.append(("hash of the samples", data_hash(table.samples.x, table.samples.y)))
    if model is not None and isinstance(model.model, nn.Module):
        texts.append(("hash of the weights", data_hash(*model.model.state_dict().values())))
    texts += [(name, str(value)) for name, value in machine().items() if value]
    return [*texts, ("report written", datetime.now(UTC).isoformat(timespec="seconds"))]


def _flat(about: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and values, those inside others by both names; nothing for None and for what is empty."""
    for key, value in about.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        elif value is not None and value != "" and value != []:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _filled(**content: Any) -> str:
    """Fill in the template, in which every text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fastadv.evaluation", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        version=__version__, percent=percent, chart=chart, **content
    )


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
