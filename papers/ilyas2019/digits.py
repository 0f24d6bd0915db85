"""The study in small: two nets, the four sets made with them, a net taught by each; all resumes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation import Attack, Table
from fastadv.evaluation.figures import Strip
from papers.ilyas2019 import figures
from papers.ilyas2019.plan import KINDS, PAPER, SETS, adversary, build
from papers.study import Study, Watch, one_of_each, trained

LEARNED = {
    "standard": "the digits",
    "adversarial": "the digits under PGD",
    "D_R": "robust features",
    "D_NR": "non-robust features",
    "D_rand": "random labels",
    "D_det": "wrong labels",
}
CLEARLY_ABOVE_CHANCE = 0.2


@dataclass(frozen=True)
class Net:
    name: str
    learned: ImageSet
    model: nn.Module
    table: Table


def nets(study: Study, watch: Watch) -> Iterator[Net]:
    """Train the six networks in order: standard, adversarial, D_R, D_NR, D_rand, D_det."""
    s, sources = study.settings, dict[str, Net]()
    recipes: dict[str, fa.train.Recipe] = {"standard": fa.train.Standard(), "adversarial": adversary(s)}
    for name, recipe in recipes.items():
        sources[name] = _train(study, name, study.base, recipe, watch)
        yield sources[name]
    for name in SETS:
        source, progress = sources[KINDS[name].source].model, partial(watch, f"building {name}")
        made = build(name, source, study.base, s, out_dir=study.folder / "sets" / name, progress=progress)
        yield _train(study, name, made, fa.train.Standard(), watch)


def measured(net: Net) -> dict[str, Any]:
    return {
        "clean": net.table.clean_accuracy,
        "robust": {row.name: row.robust_accuracy for row in net.table.rows},
        "paper_cifar10": PAPER[net.name],
        "trained_on": len(net.learned),
    }


def findings(found: Mapping[str, Any], attack: str) -> list[str]:
    def robust(name: str) -> float:
        return float(found[name]["robust"][attack])

    d_r, standard = robust("D_R"), robust("standard")
    keeps = f"D_R keeps {d_r:.1%} under {attack}, the standard net {standard:.1%}"
    others = {name: float(found[name]["clean"]) for name in SETS[1:]}
    reads = ", ".join(f"{name} {clean:.1%}" for name, clean in others.items())
    return [
        f"Robust features alone protect: {keeps}."
        if d_r > standard
        else f"{keeps}: the paper's robustness did not show here.",
        f"Non-robust features alone teach: {reads}; chance 10%."
        if min(others.values()) > CLEARLY_ABOVE_CHANCE
        else f"{reads}; chance 10%: not all of the paper's effects showed here.",
    ]


def draw(study: Study, nets: Mapping[str, Net], folder: Path) -> dict[str, str]:
    s = study.settings
    attack, pgd = s.main_attack, partial(fa.attacks.pgd, steps=s.attack_steps, loss="ce", seed=s.seed)
    paths = {
        "the six nets": folder / "nets.png",
        "accuracy by radius": folder / "radius.png",
        "nets under attack": folder / "attack.png",
        "the four sets": folder / "sets.png",
    }
    shares = {n: (net.table.clean_accuracy, net.table[attack].robust_accuracy) for n, net in nets.items()}
    figures.bars(shares, attack, f"digits of {s.size}×{s.size} pixels", paths["the six nets"])
    curves = {
        name: fa.accuracy_against_radius(
            net.model, study.test, lambda r: partial(pgd, threat=fa.L2(r)), s.curve_radii
        )
        for name, net in nets.items()
    }
    fa.figures.curves(
        curves, paths["accuracy by radius"], radius="L2 radius of PGD",
        title="Accuracy against the size of the attack", chance=0.1,
    )  # fmt: skip
    # one digit of each class that both nets read correctly
    both = nets["standard"].table.correct & nets["adversarial"].table.correct
    picked = study.test.subset(one_of_each(study.test.y, both))
    fa.figures.strips(
        list(_attacked(nets, picked, partial(pgd, threat=fa.L2(s.l2_radius), stop_early=False))),
        paths["nets under attack"], title="What an attack must change to fool a network",
        subtitle=f"PGD in L2 {s.l2_radius:g}, the same budget for both networks; "
        "below each image the class seen, orange where that is wrong",
    )  # fmt: skip
    sets = {name: nets[name].learned for name in SETS}
    figures.together(study.base, sets, "the digits", paths["the four sets"])
    return {what: str(path) for what, path in paths.items()}


def _train(study: Study, name: str, learned: ImageSet, recipe: fa.train.Recipe, watch: Watch) -> Net:
    s = study.settings
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    seed = s.seed + (name in SETS)
    model = trained(
        "small_cnn", learned, recipe, study.folder / "nets" / name, seed=seed, options={"width": s.width},
        epochs=s.epochs, batch_size=s.batch_size, optimization=fa.train.Optimization(schedule="cosine"),
        progress=partial(watch, f"training {name}"),
    )  # fmt: skip
    return Net(name, learned, model, fa.evaluate(model, study.test, s.attacks(), indicators=False))


def _attacked(nets: Mapping[str, Net], picked: ImageSet, attack: Attack) -> Iterator[Strip]:
    """Yield these images, and what the attack makes of them on either net."""
    yield Strip("clean", picked.x, picked.y.tolist())
    for name in ("standard", "adversarial"):
        model = nets[name].model
        x_adv = attack(model, picked.x, picked.y).x_adv
        with torch.no_grad():
            seen = model(x_adv).argmax(1)
        yield Strip(
            f"{name} network", x_adv, seen.tolist(), seen != picked.y, remark="attacked; its prediction",
            apart=0.12,
        )  # fmt: skip
        yield Strip("difference", x_adv - picked.x, difference=True)
