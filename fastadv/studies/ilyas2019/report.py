"""The pipeline in words: tables beside the paper's figures, and how this run differs from the paper's."""

from collections.abc import Mapping
from typing import Any

from fastadv.evaluation.text import in_markdown, number, percent
from fastadv.studies.ilyas2019.plan import NETS, SCALES
from fastadv.studies.ilyas2019.published import PAPER, PAPER_ATTACK, SOURCE, TRANSFER
from fastadv.studies.ilyas2019.sets import KINDS

Cells = list[list[str]]
Result = Mapping[str, Any]
SILENT = ("scale", "seed", "others", "tested", "size", "images")  # no deviations, or told in other words


def tables(result: Result) -> dict[str, Cells]:
    """Return the tables of the stages that were done, by their titles."""
    made = {
        "Accuracy on the ordinary test images": ("evaluate", nets),
        "The constructed sets": ("sets", sets),
        "Images of D_rand and D_det whose label is not their own": ("controls", fooling),
        "Leakage: what robust features alone teach": ("controls", leakage),
        "Transfer": ("transfer", transfer),
    }
    measured = result["measured"]
    return {title: cells(measured[stage]) for title, (stage, cells) in made.items() if stage in measured}


def nets(done: Result) -> Cells:
    """Return every net: accuracy clean and under each attack, beside the paper's."""
    attacks = list(done["nets"]["standard"]["robust"])
    first, *others = attacks
    lines = [["trained on", "clean", "paper", first, "paper*", *others]]
    for name in NETS:
        net = done["nets"][name]
        paper = PAPER.get(name, {})
        robust = [percent(net["robust"][attack]) for attack in attacks]
        lines.append(
            [
                {"standard": "images", "adversarial": "images under PGD"}.get(name, name),
                percent(net["clean"]),
                _printed(paper.get("clean")),
                robust[0],
                _printed(paper.get(PAPER_ATTACK)),
                *robust[1:],
            ]
        )
    return lines


def _printed(share: float | None) -> str:
    """Return as the paper has it; of some shares it says only that they are about 0."""
    if share is None:
        return "-"
    return f"{100 * share:.4g}%" if share else "~0%"


def sets(done: Result) -> Cells:
    """Return what the cards of the sets measured."""
    lines = [["set", "images", "kept label", "source reads label", "objective before", "after", "distance"]]
    for name in KINDS:
        card = done[name]
        shares = [percent(card[key]) for key in ("kept_label", "fooling_rate")]
        sizes = [number(card[key]) for key in ("objective_before", "objective_after", "distance_mean")]
        lines.append([name, str(card["samples"]), *shares, *sizes])
    return lines


def fooling(done: Result) -> Cells:
    """Return which label two standard nets give to pushed images."""
    lines = [["set", "net", "the set's label", "the true label"]]
    for name, by in done["fooling"].items():
        for who, shares in by.items():
            lines.append([name, who, percent(shares["label"]), percent(shares["true"])])
    return lines


def leakage(done: Result) -> Cells:
    """Return what linear models on robust features, and the nets, say of the test images."""
    found = done["leakage"]
    count = found["features"]
    lines = [["taught by", "model", "true class", "next class"]]
    kinds = (("linear", f"linear, {count} robust features"), ("net", "net"))
    for kind, title in kinds if count else kinds[1:]:
        for name, shares in found[kind].items():
            lines.append([name, title, percent(shares["true"]), percent(shares["next"])])
    return lines


def transfer(done: Result) -> Cells:
    """Return each architecture taught by D_det, and the adversarial examples that transfer to it."""
    lines = [["architecture", "taught by D_det", "transfer", "on images", "attacked"]]
    for point in done["points"]:
        shares = [percent(point[key]) for key in ("accuracy", "transfer", "clean")]
        lines.append([point["architecture"], *shares, str(point["attacked"])])
    for name, (accuracy, success) in TRANSFER.items():
        lines.append([f"paper: {name}", percent(accuracy), percent(success), "-", "-"])
    return lines


def notes(result: Result) -> list[str]:
    """Return what a reader of the tables must know."""
    config, measured = result["config"], result["measured"]
    lines = [
        f"{config['train']['samples']} training images of {config['train']['name']}, seed {config['seed']}"
    ]
    if config["train"]["note"]:
        lines.append(config["train"]["note"])
    if "evaluate" in measured:
        lines += _evaluated(config, measured["evaluate"])
    if "controls" in measured:
        lines += _controlled(config, measured["controls"])
    if found := measured.get("transfer"):
        lines.append(_correlation(found))
    if others := deviations(config):
        lines.append("not as in the paper: " + "; ".join(others))
    return lines


def _evaluated(config: Mapping[str, Any], done: Result) -> list[str]:
    standard = done["nets"]["standard"]
    flags = [f"{name}: {flag}" for name, net in done["nets"].items() for flag in net["flags"]]
    return [
        f"clean: all {config['test']['samples']} test images; PGD: {config['attack_steps']} steps of "
        f"{2.5 / config['attack_steps']:g} radii, one random start, the first {standard['tested']}",
        f"paper: {SOURCE}",
        *flags,
    ]


def _controlled(config: Mapping[str, Any], done: Result) -> list[str]:
    lines, early = [], done["early"]
    if not done["leakage"]["features"]:
        radius = f"{config['push_radius']:g}"
        lines.append(f"leakage: no class mean or principal component is useful against all of L2 {radius}")
    said = f"a net after {early['epochs']} epoch(s) ({percent(early['early'])} on test images)"
    if early["taught"] is None:
        return [*lines, f"{said} mislabels no training image: its mistakes teach nothing"]
    return [
        *lines,
        f"labels alone: {said} mislabels {early['images']} training images; a net taught by these with its "
        f"labels reads {percent(early['taught'])} of the test images (Wallace on CIFAR-10: 49.7%)",
    ]


def _correlation(found: Mapping[str, Any]) -> str:
    if found["correlation"] is None:
        return "transfer: too few points for a correlation"
    low, high = map(number, found["interval"])
    count = sum(point["transfer"] is not None for point in found["points"])
    return (
        f"transfer: correlation {number(found['correlation'])} [{low}, {high}] (95%, bootstrap over the "
        f"{count} architectures)"
    )


def deviations(config: Mapping[str, Any]) -> list[str]:
    """Return where the settings are not those of the paper's scale."""
    paper = SCALES["paper"].as_json()
    told = [
        f"{name.replace('_', ' ')}: {_words(config[name])} instead of {_words(wanted)}"
        for name, wanted in paper.items()
        if name not in SILENT and config[name] != wanted
    ]
    if config["images"] is not None:
        told.append(f"the first {config['images']} images alone")
    # the paper's images are also rotated by up to 2 degrees, and their colors change
    return [*told, "augmentation without rotations and color jitter"] if config["augment"] else told


def _words(value: Any) -> str:
    if isinstance(value, Mapping):  # an architecture
        options = (f", {key} {option}" for key, option in value["options"].items() if key != "normalize")
        return "".join((value["title"], *options))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(result: Result) -> str:
    """Return the whole report as a page."""
    config, measured = result["config"], result["measured"]
    parts = [f"# Ilyas et al. 2019 at the scale {config['scale']}"]
    for title, cells in tables(result).items():
        parts += [f"## {title}", in_markdown(cells)]
    parts.append("\n".join(f"- {note}" for note in notes(result)))
    parts += [f"![{what}]({file})" for what, file in figures(result).items()]
    seconds = sum(stage["seconds"] for stage in measured.values())
    machine = result["machine"]
    where = f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, {config['precision']}"
    parts.append(
        f"Stages: {', '.join(measured) or 'none'}; {seconds / 60:.0f} minutes, {where}, {result['date']}"
    )
    return "\n\n".join(parts) + "\n"


def figures(result: Result) -> dict[str, str]:
    """Return the figures drawn so far, by what they show: names of files in the run's folder."""
    drawn: dict[str, str] = {}
    for stage in result["measured"].values():
        drawn |= stage.get("figures", {})
    return drawn
