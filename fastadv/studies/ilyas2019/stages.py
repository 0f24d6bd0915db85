"""The stages of the pipeline: what each makes, what it takes from those before it, and what it tells."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.files import writing
from fastadv.studies.ilyas2019 import controls as of_controls
from fastadv.studies.ilyas2019.figures import bars, gallery
from fastadv.studies.ilyas2019.maker import Maker
from fastadv.studies.ilyas2019.plan import NETS
from fastadv.studies.ilyas2019.sets import KINDS
from fastadv.studies.ilyas2019.transfer import scatter
from fastadv.studies.ilyas2019.transfer import transfer as of_transfer

FIRST = ("standard", "adversarial")


def nets(maker: Maker) -> dict[str, Any]:
    """Return the nets that sets are made with: a standard one, and one trained under PGD."""
    return {name: _trained(maker, name) for name in FIRST}


def sets(maker: Maker) -> dict[str, Any]:
    """Return the six sets, with what their cards measured."""
    return {name: maker.set(name).card["measured"] for name in KINDS}


def train(maker: Maker) -> dict[str, Any]:
    """Return a fresh net on each set, in the ordinary way."""
    return {name: _trained(maker, name) for name in KINDS}


def _trained(maker: Maker, name: str) -> dict[str, Any]:
    maker.net(name)
    return maker.past(name)


def evaluate(maker: Maker) -> dict[str, Any]:
    """Return every net on the test images: all of them without an attack, the first ones under PGD in L2."""
    s = maker.settings
    found: dict[str, dict[str, Any]] = {}
    attacks = {
        s.attack(r): partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, seed=s.seed)
        for r in s.radii
    }
    for name in NETS:
        net, what = maker.net(name), f"attacking {name}"
        maker.watch(what, 0, 1)
        clean = fa.evaluate(net, maker.test)
        table = fa.evaluate(
            net, maker.test, attacks, limit=s.tested, run_dir=maker.folder / "evaluation" / name, resume=True
        )
        maker.watch(what, 1, 1)
        found[name] = {
            "clean": clean.clean_accuracy,
            "tested": table.n,
            "robust": {row.name: row.robust_accuracy for row in table.rows},
            "intervals": {row.name: list(row.accuracy_interval) for row in table.rows},
            "flags": [flag for row in table.rows for flag in row.flags],
        }
    main = s.attack(s.radii[0])
    drawn = {name: (line["clean"], line["robust"][main]) for name, line in found.items()}
    with writing(path := maker.folder / "nets.png"):
        bars(drawn, main, path)
    return {"nets": found, "figures": {"all nets": "nets.png"}}


def controls(maker: Maker) -> dict[str, Any]:
    """Return the controls of the discussion: other nets, leakage, labels without perturbations."""
    return {
        "fooling": of_controls.fooling(maker),
        "leakage": of_controls.leakage(maker),
        "early": of_controls.early_labels(maker),
    }


def galleries(maker: Maker) -> dict[str, Any]:
    """Return a picture of each set beside its source."""
    figures = {f"{name} beside its source": f"{name}.png" for name in KINDS}
    for name, file in zip(KINDS, figures.values(), strict=True):
        with writing(path := maker.folder / file):
            gallery(name, maker.base, maker.set(name), path)
    return {"figures": figures}


def transfer(maker: Maker) -> dict[str, Any]:
    """Architectures taught by D_det, and adversarial examples that transfer to them."""
    found = of_transfer(maker)
    with writing(path := maker.folder / "transfer.png"):
        scatter(found, path, maker.settings.architecture.title)
    return {**found, "figures": {"transfer and D_det": "transfer.png"}}


RUN: Mapping[str, Callable[[Maker], dict[str, Any]]] = {
    stage.__name__: stage for stage in (nets, sets, train, evaluate, controls, galleries, transfer)
}
Parts = tuple[tuple[str, str], ...]  # nets and sets, as ("net" or "set", name)


def _parts(kind: str, names: Iterable[str]) -> Parts:
    return tuple((kind, name) for name in names)


PAIR, SETS, TAUGHT = _parts("net", FIRST), _parts("set", KINDS), _parts("net", KINDS)
MAKES = {"nets": PAIR, "sets": SETS, "train": TAUGHT}
TAKES = {
    "sets": PAIR,
    "train": PAIR + SETS,
    "evaluate": PAIR + SETS + TAUGHT,
    "controls": PAIR[:1] + _parts("set", of_controls.PUSHED) + _parts("net", of_controls.PUSHED),
    "galleries": PAIR + SETS,
    "transfer": PAIR[:1] + _parts("set", ("D_det",)),
}


def check_inputs(maker: Maker, stages: tuple[str, ...]) -> None:
    """Raise InputError where a stage takes a net or a set that is not there, and that no stage before
    it makes.
    """
    coming = {part for stage in stages for part in MAKES.get(stage, ())}
    for stage in stages:
        for kind, name in TAKES.get(stage, ()):
            there = maker.has_net(name) if kind == "net" else maker.has_set(name)
            if there or (kind, name) in coming:
                continue
            first = next(other for other, parts in MAKES.items() if (kind, name) in parts)
            place = maker.net_folder(name) if kind == "net" else maker.set_folder(name)
            raise InputError(
                f"{place}: expected the finished {kind} {name}, which the stage {stage} takes, got none; "
                f"run the stage {first} first, or both"
            )
