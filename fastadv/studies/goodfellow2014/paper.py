"""The study from first to last: every table, with the networks that it needs trained on the way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastadv._extras import need
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.keeper import Keeper
from fastadv.studies.goodfellow2014 import logistic, tables
from fastadv.studies.goodfellow2014.bench import Bench, Line, Nets
from fastadv.studies.goodfellow2014.plan import Settings
from fastadv.studies.study import Watch, publish, unwatched
from fastadv.text import in_markdown, percent

TABLES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "fgsm": tables.fgsm,
    "logistic": logistic.two_digits,
    "adversarial": tables.adversarial,
    "controls": tables.controls,
    "weights": tables.first_layers,
    "agreement": tables.agreement,
    "rounding": tables.rounding,
    "directions": tables.directions,
    "ensemble": tables.ensemble,
    "rubbish": tables.noises,
}
PARTS = tuple(TABLES)
Result = Mapping[str, Any]


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    parts: Sequence[str] = PARTS,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Do these parts in `folder`: write results.json, report.md and figures there, and return the results."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(
            f"parts: expected some of {', '.join(PARTS)}, got {unknown[0] if unknown else 'none'!r}"
        )
    parts = tuple(dict.fromkeys(parts))
    need("matplotlib")
    with Keeper(folder) as keeper:
        nets = Nets(settings, train_set, folder / "nets", watch, device)
        bench, lines = Bench(nets, test_set, folder), []
        for place, part in enumerate(parts):
            watch(part, place, len(parts))
            lines += [{"part": part, **asdict(line)} for line in TABLES[part](bench)]
        sets = {"train": train_set.describe(), "test": test_set.describe()}
        return publish(
            keeper, "study goodfellow", {**asdict(settings), "parts": list(parts), **sets}, markdown,
            lines=lines, tested=len(bench.y), nets=nets.told(), details=bench.details, figures=bench.figures,
        )  # fmt: skip


def table(result: Result, part: str) -> list[list[str]]:
    cells = [["", "share", "paper", "confidence", "paper"]]
    for line in result["measured"]["lines"]:
        if line["part"] == part:
            share, confidence = line["paper"]
            shares = percent(line["share"], 2), percent(share, 2)
            cells.append([line["what"], *shares, percent(line["confidence"]), percent(confidence)])
    return cells


def networks(result: Result) -> list[list[str]]:
    told = sorted(result["measured"]["nets"].items())
    lines = [[name, str(net["epochs"]), f"{net['seconds']:.0f}", net["stopped"] or "-"] for name, net in told]
    return [["network", "epochs", "seconds", "stopped"], *lines]


def notes(result: Result) -> list[str]:
    config, measured = result["config"], result["measured"]
    return [
        f"{config['test']['name']}, {measured['tested']} test images, FGSM at L-infinity "
        f"{config['radius']:g}, seed {config['seed']}; where nothing else is said nothing is clipped, as in "
        "the paper",
        "share: of errors (agreement: of equal answers); confidence: the mean largest probability, on "
        "mistakes, on clean images on all; an error on rubbish is to be surer than 50% of some class",
    ]


def markdown(result: Result) -> str:
    pieces = ["# Explaining and harnessing adversarial examples", *notes(result)]
    for part in result["config"]["parts"]:
        pieces.append(f"## {part.capitalize()}\n\n{in_markdown(table(result, part))}")
    return "\n\n".join([*pieces, f"## Networks\n\n{in_markdown(networks(result))}"]) + "\n"
