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
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet, construct
from fastadv.evaluation import Curve, Table
from fastadv.studies.study import Study, Watch

SETS = ("D_R", "D_NR", "D_rand", "D_det")
SOURCE = "Ilyas et al. 2019, ResNet-50 on CIFAR-10, PGD L2 0.25"
PAPER_ATTACK = "PGD L2 0.25"
# Table 1 and figure 2; adversarial training at 0.5. D_rand and D_det have a robust accuracy of about 0 there.
PAPER = {
    "standard": {"clean": 0.9525, PAPER_ATTACK: 0.0449},
    "adversarial": {"clean": 0.9083, PAPER_ATTACK: 0.823},
    "D_R": {"clean": 0.841, PAPER_ATTACK: 0.483},
    "D_NR": {"clean": 0.877, PAPER_ATTACK: 0.008},
    "D_rand": {"clean": 0.633, PAPER_ATTACK: 0.0},
    "D_det": {"clean": 0.437, PAPER_ATTACK: 0.0},
}
LEARNED = {
    "standard": "the digits",
    "adversarial": "the digits under PGD",
    "D_R": "robust features",
    "D_NR": "non-robust features",
    "D_rand": "random labels",
    "D_det": "wrong labels",
}
REMARKS = {
    "D_R": "robust features kept",
    "D_NR": "non-robust features kept",
    "D_rand": "random label",
    "D_det": "next label",
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
    """The six nets in order: standard, adversarial, D_R, D_NR, D_rand, D_det."""
    s = study.settings
    adversary = fa.train.PGDTraining(
        fa.L2(s.train_radius), steps=s.train_steps, step_size=s.train_radius / 5, random_start=False
    )
    standard = _train(study, "standard", study.base, fa.train.Standard(), watch)
    yield standard
    adversarial = _train(study, "adversarial", study.base, adversary, watch)
    yield adversarial
    for name in SETS:
        source = adversarial if name == "D_R" else standard
        made = _construct(study, name, source.model, partial(watch, f"building {name}"))
        yield _train(study, name, made, fa.train.Standard(), watch)


def measured(net: Net) -> dict[str, Any]:
    """The figures of a net, JSON-able, beside the paper's."""
    return {
        "clean": net.table.clean_accuracy,
        "robust": {row.name: row.robust_accuracy for row in net.table.rows},
        "paper_cifar10": PAPER[net.name],
        "trained_on": len(net.learned),
    }


def curve(study: Study, net: Net) -> Curve:
    """Accuracy against the L2 radius of PGD."""
    s = study.settings
    return fa.accuracy_against_radius(
        net.model,
        study.test,
        lambda r: partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, seed=s.seed),
        s.curve_radii,
    )


def findings(figures: Mapping[str, Any], attack: str) -> list[str]:
    """What the figures of the six nets say in words, as they came out."""

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
    """The four figures, as PNG in `folder`; their paths by what they show."""
    attack = study.settings.main_attack
    paths = {
        "the six nets": folder / "nets.png",
        "accuracy by radius": folder / "radius.png",
        "nets under attack": folder / "attack.png",
        "the four sets": folder / "sets.png",
    }
    fa.figures.bars(
        {
            name: {"clean": net.table.clean_accuracy, attack: net.table[attack].robust_accuracy}
            for name, net in nets.items()
        },
        paths["the six nets"],
        title="What a net learns depends on the features its data keeps",
        reference={
            name: {"clean": paper["clean"], attack: paper[PAPER_ATTACK]} for name, paper in PAPER.items()
        },
        reference_name="Ilyas et al., CIFAR-10",
    )
    fa.figures.curves(
        {name: curve(study, net) for name, net in nets.items()},
        paths["accuracy by radius"],
        radius="L2 radius of PGD",
        title="Accuracy against the size of the attack",
        chance=0.1,
    )
    _draw_attacked(study, nets, paths["nets under attack"])
    _draw_sets(study, nets, paths["the four sets"])
    return {what: str(path) for what, path in paths.items()}


def _train(study: Study, name: str, learned: ImageSet, recipe: fa.train.Recipe, watch: Watch) -> Net:
    s = study.settings
    # a net on a constructed set starts from other weights than the nets that the sets were made with
    seed = s.seed + (name in SETS)
    model = fa.models.create("small_cnn", shape=study.test.shape, classes=10, width=s.width, seed=seed)
    fa.train.run(
        model,
        learned,
        recipe,
        epochs=s.epochs,
        run_dir=study.folder / "nets" / name,
        resume=True,
        batch_size=s.batch_size,
        schedule="cosine",
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
    if name in ("D_R", "D_NR"):
        invert = construct.robust if name == "D_R" else construct.non_robust
        return invert(source, study.base, steps=s.invert_steps, step_size=s.invert_step_size, **options)
    push = construct.random_target if name == "D_rand" else construct.fixed_shift
    return push(
        source,
        study.base,
        threat=fa.L2(s.push_radius),
        steps=s.push_steps,
        step_size=s.push_radius / 10,
        **options,
    )


def _draw_attacked(study: Study, nets: Mapping[str, Net], path: Path) -> None:
    """One digit of each class that both nets read correctly, attacked on either net with the same budget."""
    s = study.settings
    both = nets["standard"].table.correct & nets["adversarial"].table.correct
    picked = study.test.subset(_one_of_each(study.test.y, both))
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


def _draw_sets(study: Study, nets: Mapping[str, Net], path: Path) -> None:
    """One digit of each class, and what each set made of it, with the label that the set gives it."""
    base = study.base
    places = _one_of_each(base.y, torch.ones(len(base), dtype=torch.bool))
    rows = [fa.figures.Strip("the digits", base.x[places], base.y[places].tolist(), remark="true label")]
    for name in SETS:
        made = nets[name].learned
        labels = made.y[places]
        marked = labels != base.y[places]
        rows.append(fa.figures.Strip(name, made.x[places], labels.tolist(), marked, remark=REMARKS[name]))
    fa.figures.strips(
        rows,
        path,
        title="The four constructed sets",
        subtitle="below each image the label it is trained on; orange where that is not the true one",
    )


def _one_of_each(y: Tensor, usable: Tensor) -> Tensor:
    """The first usable sample of each class that has one."""
    places = [((y == k) & usable).nonzero().flatten() for k in range(int(y.max()) + 1)]
    return torch.stack([found[0] for found in places if len(found)])
