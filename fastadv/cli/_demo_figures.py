"""The figures of the demo."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import fastadv as fa
from fastadv.cli._gallery import Strip, gallery
from fastadv.cli._study import SETS, Net, Study
from fastadv.evaluation import figures


def draw(
    study: Study, nets: Mapping[str, Net], paper: Mapping[str, Mapping[str, float]], folder: Path
) -> dict[str, str]:
    """All figures, as PNG in `folder`; their paths by what they show."""
    attack = study.main_attack
    paths = {
        "the six nets": folder / "nets.png",
        "accuracy by radius": folder / "radius.png",
        "nets under attack": folder / "attack.png",
        "the four sets": folder / "sets.png",
    }
    measured = {
        name: {"clean": net.table.clean_accuracy, attack: net.table[attack].robust_accuracy}
        for name, net in nets.items()
    }
    known = {
        name: dict(zip(("clean", attack), figure.values(), strict=True)) for name, figure in paper.items()
    }
    title = "What a net learns depends on the features its data keeps"
    figures.bars(
        measured, paths["the six nets"], title=title, reference=known, reference_name="Ilyas et al., CIFAR-10"
    )
    curves = {name: study.curve(net) for name, net in nets.items()}
    figures.curves(
        curves,
        paths["accuracy by radius"],
        radius="L2 radius of PGD",
        title="Accuracy against the size of the attack",
        chance=0.1,
    )
    _attacked(study, nets, paths["nets under attack"])
    _sets(study, nets, paths["the four sets"])
    return {what: str(path) for what, path in paths.items()}


def _attacked(study: Study, nets: Mapping[str, Net], path: Path) -> None:
    """One digit of each class that both nets read, attacked on either net with the same budget."""
    s = study.settings
    both = nets["standard"].table.correct & nets["adversarial"].table.correct
    picked = study.test.subset(_one_of_each(study.test.y, both))
    pgd = partial(
        fa.attacks.pgd, threat=fa.L2(s.l2_radius), steps=s.attack_steps, seed=s.seed, stop_early=False
    )
    strips = [Strip("clean", picked.x, picked.y.tolist())]
    for name in ("standard", "adversarial"):
        found = pgd(nets[name].model, picked.x, picked.y)
        with torch.no_grad():
            calls = nets[name].model(found.x_adv).argmax(1)
        strips += [
            Strip(
                f"{name} net",
                found.x_adv,
                calls.tolist(),
                calls != picked.y,
                remark="attacked; what it reads",
                apart=0.12,
            ),
            Strip("difference", found.x_adv - picked.x, difference=True),
        ]
    subtitle = f"PGD on L2 {s.l2_radius:g}, the same budget for both nets; orange where the net is fooled"
    gallery(strips, path, "What an attack must change to fool a net", subtitle)


def _sets(study: Study, nets: Mapping[str, Net], path: Path) -> None:
    """One digit of each class, and what each set made of it, with the label that the set gives it."""
    base = study.base
    places = _one_of_each(base.y, torch.ones(len(base), dtype=torch.bool))
    remarks = {
        "D_R": "robust features kept",
        "D_NR": "non-robust features kept",
        "D_rand": "random label",
        "D_det": "next label",
    }
    strips = [Strip("the digits", base.x[places], base.y[places].tolist(), remark="true label")]
    for name in SETS:
        made = nets[name].learnt
        labels = made.y[places]
        strips.append(
            Strip(name, made.x[places], labels.tolist(), labels != base.y[places], remark=remarks[name])
        )
    gallery(
        strips,
        path,
        "The four constructed sets",
        "below each image the label it is trained on; orange where that is not the true one",
    )


def _one_of_each(y: Tensor, usable: Tensor) -> Tensor:
    """The first usable sample of each class."""
    found = [((y == k) & usable).nonzero().flatten() for k in range(int(y.max()) + 1)]
    return torch.stack([places[0] for places in found if len(places)])
