"""Ilyas et al. 2019, "Adversarial examples are not bugs, they are features", in small.

A standard and an adversarially trained net, the four sets D_R, D_NR, D_rand and D_det built from them, and
for each set a fresh net trained on it in the ordinary way. Every part resumes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation import Curve, Table
from fastadv.studies.ilyas2019.figures import bars, together
from fastadv.studies.ilyas2019.published import PAPER
from fastadv.studies.ilyas2019.sets import KINDS, SETS, build
from fastadv.studies.study import Study, Watch, one_of_each

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
    """A net of the study: the set it was trained on, the net itself, and its figures."""

    name: str
    learned: ImageSet
    model: nn.Module
    table: Table


def nets(study: Study, watch: Watch) -> Iterator[Net]:
    """Yield the six nets in order: standard, adversarial, D_R, D_NR, D_rand, D_det."""
    s = study.settings
    adversary = fa.train.PGDTraining(
        fa.L2(s.train_radius), steps=s.train_steps, step_size=s.train_radius / 5, random_start=False
    )
    standard = _train(study, "standard", study.base, fa.train.Standard(), watch)
    yield standard
    adversarial = _train(study, "adversarial", study.base, adversary, watch)
    yield adversarial
    for name in SETS:
        source = adversarial if KINDS[name].source == "adversarial" else standard
        made = _construct(study, name, source.model, partial(watch, f"building {name}"))
        yield _train(study, name, made, fa.train.Standard(), watch)


def measured(net: Net) -> dict[str, Any]:
    """Return the figures of a net, JSON-able, beside the paper's."""
    return {
        "clean": net.table.clean_accuracy,
        "robust": {row.name: row.robust_accuracy for row in net.table.rows},
        "paper_cifar10": PAPER[net.name],
        "trained_on": len(net.learned),
    }


def curve(study: Study, net: Net) -> Curve:
    """Return accuracy against the L2 radius of PGD."""
    s = study.settings
    return fa.accuracy_against_radius(
        net.model,
        study.test,
        lambda r: partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, seed=s.seed),
        s.curve_radii,
    )


def findings(figures: Mapping[str, Any], attack: str) -> list[str]:
    """Return what the figures of the six nets say in words, as they came out."""

    def robust(name: str) -> float:
        return float(figures[name]["robust"][attack])

    d_r, standard = robust("D_R"), robust("standard")
    keeps = f"D_R keeps {d_r:.1%} under {attack}, the standard net {standard:.1%}"
    others = {name: float(figures[name]["clean"]) for name in SETS[1:]}
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
    """Return the four figures, as PNG in `folder`; their paths by what they show."""
    attack = study.settings.main_attack
    paths = {
        "the six nets": folder / "nets.png",
        "accuracy by radius": folder / "radius.png",
        "nets under attack": folder / "attack.png",
        "the four sets": folder / "sets.png",
    }
    bars(
        {name: (net.table.clean_accuracy, net.table[attack].robust_accuracy) for name, net in nets.items()},
        attack,
        paths["the six nets"],
    )
    fa.figures.curves(
        {name: curve(study, net) for name, net in nets.items()},
        paths["accuracy by radius"],
        radius="L2 radius of PGD",
        title="Accuracy against the size of the attack",
        chance=0.1,
    )
    _draw_attacked(study, nets, paths["nets under attack"])
    sets = {name: nets[name].learned for name in SETS}
    together(study.base, sets, "the digits", paths["the four sets"])
    return {what: str(path) for what, path in paths.items()}


def _train(study: Study, name: str, learned: ImageSet, recipe: fa.train.Recipe, watch: Watch) -> Net:
    s = study.settings
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    seed = s.seed + (name in SETS)
    model = fa.models.create("small_cnn", shape=study.test.shape, classes=10, width=s.width, seed=seed)
    fa.train.fit(
        model,
        learned,
        recipe,
        epochs=s.epochs,
        run_dir=study.folder / "nets" / name,
        resume=True,
        batch_size=s.batch_size,
        optimization=fa.train.Optimization(schedule="cosine"),
        seed=seed,
        progress=partial(watch, f"training {name}"),
    )
    model.eval()
    return Net(name, learned, model, fa.evaluate(model, study.test, s.attacks()))


def _construct(study: Study, name: str, source: nn.Module, progress: Callable[[int, int], None]) -> ImageSet:
    s = study.settings
    options: dict[str, Any] = {
        "seed": s.seed,
        "out_dir": study.folder / "sets" / name,
        "progress": progress,
    }
    budget: dict[str, Any] = {"steps": s.invert_steps, "step_size": s.invert_step_size}
    if not KINDS[name].inverts:
        radius = s.push_radius
        budget = {"threat": fa.L2(radius), "steps": s.push_steps, "step_size": radius / 10}
    return build(name, source, study.base, **budget, **options)


def _draw_attacked(study: Study, nets: Mapping[str, Net], path: Path) -> None:
    """Draw one digit of each class that both nets read correctly, attacked on either net with the same
    budget.
    """
    s = study.settings
    both = nets["standard"].table.correct & nets["adversarial"].table.correct
    picked = study.test.subset(one_of_each(study.test.y, both))
    pgd = partial(
        fa.attacks.pgd, threat=fa.L2(s.l2_radius), steps=s.attack_steps, seed=s.seed, stop_early=False
    )
    rows = [fa.figures.Strip("clean", picked.x, picked.y.tolist())]
    for name in ("standard", "adversarial"):
        x_adv = pgd(nets[name].model, picked.x, picked.y).x_adv
        with torch.no_grad():
            seen = nets[name].model(x_adv).argmax(1)
        rows += [
            fa.figures.Strip(
                f"{name} net",
                x_adv,
                seen.tolist(),
                seen != picked.y,
                remark="attacked; its prediction",
                apart=0.12,
            ),
            fa.figures.Strip("difference", x_adv - picked.x, difference=True),
        ]
    fa.figures.strips(
        rows,
        path,
        title="What an attack must change to fool a net",
        subtitle=f"PGD in L2 {s.l2_radius:g}, the same budget for both nets; orange where the net is fooled",
    )
