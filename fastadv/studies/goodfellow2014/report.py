"""The study as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastadv.evaluation.text import in_markdown, percent

HEAD = ["", "share", "paper", "confidence", "paper"]
DIGITS = 2


def table(result: Mapping[str, Any], part: str) -> list[list[str]]:
    """Return the lines of a part, the head first."""
    lines = [line for line in result["measured"]["lines"] if line["part"] == part]
    return [HEAD, *(_cells(line) for line in lines)]


def nets(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the networks: epochs and seconds of training."""
    told = sorted(result["measured"]["nets"].items())
    lines = [[name, str(net["epochs"]), f"{net['seconds']:.0f}", net["stopped"] or "-"] for name, net in told]
    return [["network", "epochs", "seconds", "stopped"], *lines]


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the tables must know."""
    config, measured = result["config"], result["measured"]
    return [
        f"{config['test']['name']}, {measured['tested']} test images, FGSM at L-infinity "
        f"{config['radius']:g}, seed {config['seed']}; where nothing else is said nothing is clipped, as in "
        "the paper",
        "share: of errors (agreement: of equal answers); confidence: the mean largest probability, on "
        "mistakes, on clean images on all; an error on rubbish is to be surer than 50% of some class",
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    parts: Sequence[str] = result["config"]["parts"]
    tables = [f"## {part.capitalize()}\n\n{in_markdown(table(result, part))}" for part in parts]
    pieces = ["# Explaining and harnessing adversarial examples", *notes(result), *tables]
    return "\n\n".join([*pieces, f"## Networks\n\n{in_markdown(nets(result))}"]) + "\n"


def _cells(line: Mapping[str, Any]) -> list[str]:
    share, confidence = line["paper"]
    return [
        line["what"],
        percent(line["share"], DIGITS),
        percent(share, DIGITS),
        percent(line["confidence"]),
        percent(confidence),
    ]
