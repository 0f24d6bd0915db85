"""The table of the study, and its page."""

from collections.abc import Mapping, Sequence
from typing import Any

import fastadv as fa
from fastadv.studies.recipes.plan import OWN, PGD, QUICK, REPLAYS
from fastadv.text import in_markdown, percent, radius_text

Line = Mapping[str, Any]


def by_recipe(result: Mapping[str, Any]) -> dict[str, list[Line]]:
    runs = dict[str, list[Line]]()
    for line in result["measured"]["lines"]:
        runs.setdefault(line["recipe"], []).append(line)
    return runs


def over_seeds(shares: Sequence[float | None]) -> str:
    """Return the mean of those that there are and, of several, their range: 48.2% (47.0% to 49.1%)."""
    known = [share for share in shares if share is not None]
    if not known:
        return "-"
    mean = percent(sum(known) / len(known), 1)
    return mean if len(known) == 1 else f"{mean} ({percent(min(known), 1)} to {percent(max(known), 1)})"


def table(result: Mapping[str, Any]) -> list[list[str]]:
    cells = [["recipe", "clean", PGD, "best epoch", "AutoAttack", "best weights", "seconds", "alarm"]]
    keys = ("clean", "pgd", "best_pgd", "autoattack", "best_autoattack")
    for recipe, runs in by_recipe(result).items():
        shares = (over_seeds([line[key] for line in runs]) for key in keys)
        seconds = sum(line["seconds"] for line in runs) / len(runs)
        cells.append([recipe, *shares, f"{seconds:.0f}", "; ".join(_alarms(runs)) or "-"])
    return cells


def _alarms(runs: Sequence[Line]) -> list[str]:
    alarms = [(line["seed"], one) for line in runs for one in line["alarms"]]
    told = [(seed, f"epoch {one['epoch']}: {one['text'].partition(':')[0]}") for seed, one in alarms]
    return [text if len(runs) == 1 else f"seed {seed}, {text}" for seed, text in told]


def notes(result: Mapping[str, Any]) -> list[str]:
    config, judged = result["config"], result["measured"]["lines"][0]["judged"]
    seeds = config["seeds"]
    told = f"seed {config['seed']}"
    if seeds > 1:
        told = f"seeds {config['seed']} to {config['seed'] + seeds - 1}: the mean, and from lowest to highest"
    ramp = f", of which {config['ramp']} with a growing radius" if config["ramp"] else ""
    measured = f"{PGD} and {QUICK}" if config["watched"] else PGD
    after = "each epoch" if config["test_every"] == 1 else f"every {config['test_every']} epochs"
    lines = [
        f"{_threat(config['radius'])} on {config['train']['samples']} training images of "
        f"{config['data']}, {config['model']}, {config['epochs']} epochs{ramp}, {told}",
        f"clean, AutoAttack ({config['version']}): the first {judged} test images; {measured}: the first "
        f"{config['tested']}, after {after}; seconds: of training, with these tests",
        "best weights: AutoAttack on the weights of the best tested epoch, for runs with an alarm",
    ]
    if "free" in by_recipe(result):
        lines.append(f"free: {-(-config['epochs'] // REPLAYS)} epochs, each with {REPLAYS} steps on a batch")
    others = {name: OWN.get((config["data"], name), {}).get("radius") for name in by_recipe(result)}
    lines += [f"{name}: {_threat(radius)}" for name, radius in others.items() if radius]
    averaged = [name for name, runs in by_recipe(result).items() if runs[0]["curve"][-1]["averaged"]]
    if averaged:
        lines.append(f"{', '.join(averaged)}: the accuracies are those of the averaged weights")
    return lines


def _threat(radius: float) -> str:
    return f"L-infinity {radius_text(fa.Linf(radius))}"


def markdown(result: Mapping[str, Any]) -> str:
    title = "# Recipes of adversarial training side by side"
    return "\n\n".join([title, in_markdown(table(result)), *notes(result), "![curves](curves.png)"]) + "\n"
