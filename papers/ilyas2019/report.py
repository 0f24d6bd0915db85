"""The pipeline in words: tables beside the paper's figures."""

from collections.abc import Mapping
from typing import Any

from papers.ilyas2019.plan import KINDS, PAPER_ATTACK, SOURCE, SOURCES, STAGES, TRANSFER, paper, printed
from papers.study import SECONDS
from papers.text import in_markdown, number, percent

Cells = list[list[str]]
Result = Mapping[str, Any]


def tables(result: Result) -> dict[str, Cells]:
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
    attacks = list(done["nets"]["standard"]["robust"])
    titles = {"standard": "images", "adversarial": "images under PGD"}
    lines = [["trained on", "clean", "paper", attacks[0], "paper*", *attacks[1:]]]
    for name, net in _ordered(done["nets"]):
        theirs = paper(name)
        first, *others = (percent(net["robust"][attack]) for attack in attacks)
        clean = [percent(net["clean"]), printed(theirs.get("clean"))]
        lines.append([titles.get(name, name), *clean, first, printed(theirs.get(PAPER_ATTACK)), *others])
    return lines


def sets(done: Result) -> Cells:
    lines = [["set", "images", "kept label", "source reads label", "objective before", "after", "distance"]]
    for name, card in _ordered(done):
        shares = [percent(card[key]) for key in ("kept_label", "fooling_rate")]
        sizes = [number(card[key]) for key in ("objective_before", "objective_after", "distance_mean")]
        lines.append([name, str(card["samples"]), *shares, *sizes])
    return lines


def _ordered(found: Result) -> list[tuple[str, Any]]:
    """Return what was found of nets and sets in their order, which a file of results does not keep."""
    return [(name, found[name]) for name in (*SOURCES, *KINDS) if name in found]


def fooling(done: Result) -> Cells:
    return [
        ["set", "net", "the set's label", "the true label"],
        *(
            [name, who, percent(shares["label"]), percent(shares["true"])]
            for name, by in done["fooling"].items()
            for who, shares in by.items()
        ),
    ]


def leakage(done: Result) -> Cells:
    found = done["leakage"]
    count = found["features"]
    kinds = {"linear": f"linear, {count} robust features"} if count else {}
    return [
        ["taught by", "model", "true class", "next class"],
        *(
            [name, title, percent(shares["true"]), percent(shares["next"])]
            for kind, title in (kinds | {"net": "net"}).items()
            for name, shares in found[kind].items()
        ),
    ]


def transfer(done: Result) -> Cells:
    lines = [["architecture", "taught by D_det", "transfer", "on images", "attacked"]]
    for point in done["points"]:
        shares = [percent(point[key]) for key in ("accuracy", "transfer", "clean")]
        lines.append([point["architecture"], *shares, str(point["attacked"])])
    for name, (accuracy, success) in TRANSFER.items():
        lines.append([f"paper: {name}", percent(accuracy), percent(success), "-", "-"])
    return lines


def notes(result: Result) -> list[str]:
    config, measured = result["config"], result["measured"]
    train = config["train"]
    lines = [f"{train['samples']} training images of {train['name']}, seed {config['seed']}"]
    lines += [train["note"]] if train["note"] else []
    if found := measured.get("evaluate"):
        steps, tested = config["attack_steps"], found["nets"]["standard"]["tested"]
        lines += [
            f"clean: all {config['test']['samples']} test images; PGD: {steps} steps of {2.5 / steps:g} "
            f"radii, one random start, the first {tested}",
            f"paper: {SOURCE}",
            *(f"{name}: {flag}" for name, net in found["nets"].items() for flag in net["flags"]),
        ]
    if found := measured.get("controls"):
        if not found["leakage"]["features"]:
            told = "leakage: no class mean or principal component is useful against all of L2"
            lines.append(f"{told} {config['push_radius']:g}")
        lines.append(_early(found["early"]))
    if found := measured.get("transfer"):
        lines.append(_correlation(found))
    if spent := measured.get(SECONDS):
        told = "; ".join(f"{work}: {took:,.0f} s" for work, took in spent.items())
        lines.append(f"time: {told}; {sum(spent.values()) / 60:.0f} minutes in all")
    return [*lines, *(f"left: {work}" for work in measured.get("left", ()))]


def _early(early: Result) -> str:
    said = f"a net after {early['epochs']} epoch(s) ({percent(early['early'])} on test images)"
    if early["taught"] is None:
        return f"{said} mislabels no training image: its mistakes teach nothing"
    return (
        f"labels alone: {said} mislabels {early['images']} training images; a net taught by these with its "
        f"labels reads {percent(early['taught'])} of the test images (Wallace on CIFAR-10: 49.7%)"
    )


def _correlation(found: Result) -> str:
    if found["correlation"] is None:
        return "transfer: too few points for a correlation"
    low, high = map(number, found["interval"])
    count = sum(point["transfer"] is not None for point in found["points"])
    return (
        f"transfer: correlation {number(found['correlation'])} [{low}, {high}] (95%, bootstrap over the "
        f"{count} architectures)"
    )


def markdown(result: Result) -> str:
    config = result["config"]
    parts = [f"# Ilyas et al. 2019 at the scale {config['scale']}"]
    for title, cells in tables(result).items():
        parts += [f"## {title}", in_markdown(cells)]
    parts.append("\n".join(f"- {note}" for note in notes(result)))
    parts += [f"![{what}]({file})" for what, file in figures(result).items()]
    machine = result["machine"]
    where = f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, {config['precision']}"
    parts.append(f"{where}, {result['date']}")
    return "\n\n".join(parts) + "\n"


def figures(result: Result) -> dict[str, str]:
    """Return the figures drawn so far, by what they show: names of files in the run's folder."""
    drawn: dict[str, str] = {}
    for stage in STAGES:
        drawn |= result["measured"].get(stage, {}).get("figures", {})
    return drawn
