"""The study in words: tables as text and as markdown."""

import math
from typing import Any

from fastadv.studies.schott2018.published import SOURCE, THRESHOLDS, TITLES
from fastadv.text import in_markdown, number
from fastadv.text import percent as to_percent
from fastadv.threat import THREATS

Cells = list[list[str]]


def overview(measured: dict[str, Any]) -> Cells:
    """Return each model in each norm: under the paper's attacks, as published, and under all attacks."""
    bounds = {(line["norm"], line["model"]): line["mean"] for line in measured["bounds"]}
    cells = [
        ["norm", "model", "median", "paper", "accuracy", "paper", "median,\nall", "accuracy,\nall", "bound"]
    ]
    for line in measured["least"]:
        norm, model, found = line["norm"], line["model"], line["all"]
        under_all = [distance(found["median"]), percent(found["accuracy"])]
        names = [f"{THREATS[norm].symbol} {THRESHOLDS[norm]:g}", TITLES[model]]
        bound = number(bounds.get((norm, model)))
        cells.append([*names, *_beside(line["paper"], line["published"]), *under_all, bound])
    return cells


def _beside(here: dict[str, Any] | None, known: dict[str, float]) -> list[str]:
    """Median and accuracy with the published ones, starred where those lie outside the 95% interval."""
    if here is None:
        return ["-", number(known["median"]), "-", percent(known["accuracy"])]
    texts = []
    for what, text in (("median", distance), ("accuracy", percent)):
        low, high = (math.inf if end is None else end for end in here[f"{what}_interval"])
        inside = low <= known[what] <= high
        texts += [text(here[what]), text(known[what]) + ("" if inside else "*")]
    return texts


def attacks(measured: dict[str, Any], norm: str) -> Cells:
    """Return each attack on each model in a norm: median and accuracy, as in table 1 of the paper."""
    lines = [line for line in measured["cells"] if line["norm"] == norm]
    models = [model for model in TITLES if any(line["model"] == model for line in lines)]
    rows: Cells = [["attack", *(TITLES[model] for model in models)]]
    for attack in dict.fromkeys(line["attack"] for line in lines):
        found = {line["model"]: line for line in lines if line["attack"] == attack}
        rows.append([attack, *(_both(found.get(model)) for model in models)])
    for name, which in (
        ("the paper's attacks", "paper"), ("all", "all"), ("published, all", "published")
    ):  # fmt: skip
        least = {line["model"]: line[which] for line in measured["least"] if line["norm"] == norm}
        rows.append([name, *(_both(least.get(model)) for model in models)])
    return rows


def _both(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    return f"{distance(figures['median'])} / {percent(figures['accuracy'])}"


def notes(measured: dict[str, Any]) -> list[str]:
    """Return what a reader of the tables must know."""
    lines = [
        "median: of the distance to the smallest perturbation found, 0 for images that were wrong already; "
        "accuracy: the share of images that nothing up to the threshold breaks",
        f"paper: {SOURCE}; * outside the 95% interval of the images here",
        "median, accuracy: under the paper's attacks for the norm; all: under these and today's, for "
        "any norm; bound: the mean radius within which ABS keeps its decision, in its tight form",
    ]
    for line in measured["bounds"]:
        if line["broken"]:
            place = f"{TITLES[line['model']]}, {THREATS[line['norm']].symbol}"
            lines.append(f"{place}: {line['broken']} bounds do not hold: an adversarial lies within them")
    lines += [f"failed: {name}: {error}" for name, error in measured["failed"].items()]
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Return the whole report as a page."""
    measured, config = result["measured"], result["config"]
    norms = list(dict.fromkeys(line["norm"] for line in measured["cells"]))
    parts = [
        f"# Schott et al. 2018 on {config['samples']} test images of MNIST, seed {config['seed']}",
        in_markdown(overview(measured), names=2),
        "\n".join(f"- {note}" for note in notes(measured)),
    ]
    for norm in norms:
        title = f"## {THREATS[norm].symbol}: median distance / accuracy at {THRESHOLDS[norm]:g}"
        parts += [title, in_markdown(attacks(measured, norm))]
    parts += [f"![{name}]({path.rpartition('/')[2]})" for name, path in measured["figures"].items()]
    parts.append(f"{measured['seconds'] / 60:.0f} minutes of work, {result['date']}")
    return "\n\n".join(parts) + "\n"


def distance(value: float | None) -> str:
    """Return a distance to three digits; infinite where it is None."""
    return "∞" if value is None else number(value)


def percent(share: float) -> str:
    """Return a share as a whole percentage, unless that were a false 0 or 100."""
    return to_percent(share, 0)
