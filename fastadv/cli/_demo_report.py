"""What the demo shows: the table of six nets beside the paper's, and the figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from fastadv.cli._output import percent
from fastadv.cli._study import Net

# Ilyas et al. 2019, table 1 and figure 2: CIFAR-10, ResNet-50, L2 PGD at 0.25, adversarial training at 0.5. D_rand and D_det have
# a robust accuracy of about 0 there.
PAPER = {
    "standard": {"clean": 0.9525, "PGD L2 0.25": 0.0449},
    "adversarial": {"clean": 0.9083, "PGD L2 0.25": 0.823},
    "D_R": {"clean": 0.841, "PGD L2 0.25": 0.483},
    "D_NR": {"clean": 0.877, "PGD L2 0.25": 0.008},
    "D_rand": {"clean": 0.633, "PGD L2 0.25": 0.0},
    "D_det": {"clean": 0.437, "PGD L2 0.25": 0.0},
}
CLEARLY_ABOVE_CHANCE = 0.2

LEARNT = {
    "standard": "the digits",
    "adversarial": "the digits under PGD",
    "D_R": "robust features",
    "D_NR": "non-robust features",
    "D_rand": "random labels",
    "D_det": "wrong labels",
}


def rows(nets: Iterable[Net]) -> dict[str, Any]:
    """For each net its figures, as results.json holds them."""
    made = {}
    for net in nets:
        measured = {row.name: row.robust_accuracy for row in net.table.rows}
        made[net.name] = {
            "clean": net.table.clean_accuracy,
            "robust": measured,
            "paper_cifar10": PAPER[net.name],
            "trained_on": len(net.learnt),
        }
    return made


def show(result: dict[str, Any], screen: Console) -> None:
    """The table and where the figures are."""
    measured = result["measured"]
    settings, nets = result["config"]["settings"], measured["nets"]
    attacks = list(nets["standard"]["robust"])
    side, test = settings["size"], result["config"]["test"]["samples"]
    table = RichTable(
        title=f"Six nets on {test} held-out digits of {side}x{side}: accuracy clean and under attack",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("net")
    table.add_column("learnt from")
    for name in ("clean", *attacks):
        table.add_column(name.replace(" ", "\n", 1) if name != "clean" else "\nclean", justify="right")
    table.add_column("paper*\nclean", justify="right", style="dim")
    table.add_column("paper*\nPGD L2", justify="right", style="dim")
    for name, net in nets.items():
        robust = [percent(net["robust"][attack]) for attack in attacks]
        clean, pgd = net["paper_cifar10"].values()
        table.add_row(
            f"[bold]{name}[/]",
            LEARNT[name],
            percent(net["clean"]),
            *robust,
            f"{100 * clean:.4g}%",
            f"{100 * pgd:.4g}%" if pgd else "~0%",
        )
        if name == "adversarial":
            table.add_section()
    screen.print(table)
    screen.print(
        "* Ilyas et al. 2019, ResNet-50 on CIFAR-10, PGD L2 0.25: other images and net; compare the order.",
        style="dim",
    )
    screen.print()
    for line in (*findings(nets, attacks[-1]), explained(measured["abs"], attacks[-1])):
        screen.print(line)
    screen.print()
    for what, path in measured["figures"].items():
        screen.print(f"{what:<21} {path}", soft_wrap=True)
    screen.print(f"{'all figures':<21} {Path(measured['folder']) / 'results.json'}", soft_wrap=True)
    screen.print(f"done in {measured['seconds']:.0f} s", style="dim")


def findings(nets: dict[str, Any], attack: str) -> list[str]:
    """What the table says, in words, as it came out."""

    def robust(name: str) -> float:
        return float(nets[name]["robust"][attack])

    d_r, standard = robust("D_R"), robust("standard")
    keeps = f"D_R keeps {percent(d_r)} under {attack}, the standard net {percent(standard)}"
    reads = ", ".join(f"{name} {percent(nets[name]['clean'])}" for name in ("D_NR", "D_rand", "D_det"))
    shown = min(nets[name]["clean"] for name in ("D_NR", "D_rand", "D_det")) > CLEARLY_ABOVE_CHANCE
    return [
        f"Robust features alone protect: {keeps}."
        if d_r > standard
        else f"{keeps}: the paper's robustness did not show here.",
        f"Non-robust features alone teach: {reads}; chance 10%."
        if shown
        else f"{reads}; chance 10%: not all of the paper's showed here.",
    ]


def explained(found: dict[str, Any], attack: str) -> str:
    """What came out of Analysis by Synthesis, in words."""
    clean, robust, count = percent(found["clean"]), percent(found["robust"]), found["samples"]
    return (
        f"Analysis by Synthesis reads {clean} of the digits and keeps {robust} of {count} under {attack};\n"
        f"latent descent breaks its decisions at L2 {found['latent_descent']:.2f} in the median; lower bounds average {found['lower_bound']:.2f}."
    )
