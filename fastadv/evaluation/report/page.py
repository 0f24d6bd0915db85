"""The report itself: its arguments checked, its parts gathered, the page filled in and written."""

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._extras import need
from fastadv._version import __version__
from fastadv.engine import Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation.curve import Curve
from fastadv.evaluation.groups import Group, groups
from fastadv.evaluation.report import chart, classes, grid, hardest, pictures, provenance, verdict
from fastadv.evaluation.report.asked import logits
from fastadv.evaluation.table import Table
from fastadv.intervals import clopper_pearson
from fastadv.runs.files import atomic_write, writing
from fastadv.text import percent


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path; InputError unless it ends in .html, MissingExtraError where jinja2 is missing."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"path: expected a name ending in .html, got {str(path)!r}")
    need("jinja2")
    return Path(path)


def report(
    table: Table,
    path: str | os.PathLike[str],
    *,
    title: str = "Robustness report",
    model: nn.Module | Prepared | None = None,
    class_names: Sequence[str] | None = None,
    curves: Mapping[str, Curve] | None = None,
    bounds: Tensor | None = None,
    provenance: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
) -> None:
    """Write a finished evaluation as one HTML file, which needs nothing beside it.

    In order: the verdict, signs of masked gradients, each attack, accuracy against radius, attacks by
    classes, samples at the median distance, the hardest samples, cost, provenance. What the table does not
    hold is left out, and the page says so; `fa.evaluate(..., keep_samples=True)` holds most.

    Args:
        table: what `evaluate` returned, of at least one sample.
        title: the heading of the page.
        path: a name that ends in .html; the file is whole or absent.
        model: the model of the table, for predictions of adversarial examples, for traces of the hardest
            samples (at most 300 passes), and for the hash of its weights.
        class_names: of all classes, in order; else the page has their numbers.
        curves: accuracy against radius by the name of the attack, from `accuracy_against_radius`. Those of
            minimum-norm attacks are drawn without.
        bounds: [n] radii within which the decision is proved, as from `lower_bounds`, in the norm of the
            attacks; drawn where there is one norm.
        provenance: what made the table, such as the command and the seed; texts, numbers, and mappings of
            them. Versions, machine and hashes are added.
        entry: fields of RobustBench's entries, as `fastadv.evaluation.robustbench.entry` returns.

    Raises:
        InputError: a table without samples, bounds of another length, another ending of the name, or unknown
            fields of `entry`.
        MissingExtraError: jinja2 is missing.
        OSError: the file cannot be written.
    """
    path = check_path(path)
    if table.n == 0:
        raise InputError("table: expected one of at least one sample, got none; evaluate some first")
    if bounds is not None and (bounds.shape != (table.n,) or bounds.isnan().any()):
        raise InputError(
            f"bounds: expected [{table.n}], a radius for each sample of the table, got {list(bounds.shape)}"
            + (" with NaN" if bounds.isnan().any() else "")
        )
    with torch.no_grad():
        frozen = None if model is None else prepare(model)
        content = _content(table, frozen, class_names, curves or {}, bounds, provenance or {}, entry or {})
    text = _filled(title=title, version=__version__, table=table, **content)
    with writing(path), atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _content(
    table: Table, model: Prepared | None, names: Sequence[str] | None, curves: Mapping[str, Curve],
    bounds: Tensor | None, told: Mapping[str, Any], entry: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Gather what the page shows."""
    grouped = groups(table.rows)
    main = grouped[0].threat if grouped else None
    norms: dict[object, Group] = {}
    for group in grouped:
        norms.setdefault(group.threat and (group.threat.norm, group.threat.box), group)
    alone = len(norms) == 1
    kept = table.samples
    seen = None if model is None or kept is None else logits(model, kept.x_adv).argmax(1)
    box = main.box if main is not None else (0.0, 1.0)
    drawn = [chart.chart(table, group, curves, bounds if alone else None) for group in norms.values()]
    hard, traces = hardest.hardest(table, model, main, names, farthest=alone)
    return {
        "clean": grid.with_interval(percent(table.clean_accuracy), _clean_interval(table)),
        "sentences": [verdict.sentence(table, group, bounds if alone else None) for group in grouped],
        "signs": verdict.signs(table),
        "attacks": grid.attacks(table),
        "charts": [each for each in drawn if each is not None],
        "axes": chart,
        "heat": classes.heat(table, names, main),
        "gallery": pictures.gallery(table, seen, names, box)
        if alone
        else "the attacks are of several norms, whose distances cannot be compared",
        "hard": hard,
        "traces": traces,
        "trace": hardest,
        "costs": grid.costs(table),
        "details": grid.details(table),
        "provenance": provenance.lines(table, model, told),
        "robustbench": provenance.robustbench(table, main, entry),
        "measured": table.to_dict(),
    }


def _clean_interval(table: Table) -> list[str]:
    return [percent(end) for end in clopper_pearson(int(table.correct.sum()), table.n)]


def _filled(**content: Any) -> str:
    """Fill in the template, in which every text is escaped."""
    import jinja2

    folder = files("fastadv.evaluation.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("template.html").render(content)
