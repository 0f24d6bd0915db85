"""The study as tables for people."""

from collections.abc import Mapping
from typing import Any

from fastadv.evaluation.text import in_markdown, percent

Result = Mapping[str, Any]


def table(result: Result, part: str) -> list[list[str]]:
    """Return the lines of a part, the head first."""
    cells = [["", "share", "paper", "confidence", "paper"]]
    for line in result["measured"]["lines"]:
        if line["part"] == part:
            share, confidence = line["paper"]
            shares = percent(line["share"], 2), percent(share, 2)
            cells.append([line["what"], *shares, percent(line["confidence"]), percent(confidence)])
    return cells


def nets(result: Result) -> list[list[str]]:
    """Return the networks: epochs and seconds of training."""
    told = sorted(result["measured"]["nets"].items())
    lines = [[name, str(net["epochs"]), f"{net['seconds']:.0f}", net["stopped"] or "-"] for name, net in told]
    return [["network", "epochs", "seconds", "stopped"], *lines]


def notes(result: Result) -> list[str]:
    """Return what a reader of the tables must know."""
    config, measured = result["config"], result["measured"]
    return [
        f"{config['test']['name']}, {measured['tested']} test images, FGSM at L-infinity "
        f"{config['radius']:g}, seed {config['seed']}; where nothing else is said nothing is clipped, as in "
        "the paper",
        "share: of errors (agreement: of equal answers); confidence: the mean largest probability, on "
        "mistakes, on clean images on all; an error on rubbish is to be surer than 50% of some class",
    ]


def markdown(result: Result) -> str:
    """Return the report as a page."""
    pieces = ["# Explaining and harnessing adversarial examples", *notes(result)]
    for part in result["config"]["parts"]:
        pieces.append(f"## {part.capitalize()}\n\n{in_markdown(table(result, part))}")
    return "\n\n".join([*pieces, f"## Networks\n\n{in_markdown(nets(result))}"]) + "\n"
