"""The paper's experiment from the first net to its controls, as one resumable run in a folder."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv._extras import need
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.runs.files import read_json, writing
from fastadv.runs.identity import check_same
from fastadv.runs.keeper import Keeper
from fastadv.studies.ilyas2019 import controls, figures, report
from fastadv.studies.ilyas2019.maker import Maker, file_name
from fastadv.studies.ilyas2019.plan import SOURCES, STAGES, Settings, check_stages
from fastadv.studies.study import RESULTS, Watch, one_thread, publish, unwatched


def load(settings: Settings, data_dir: str | PathLike[str] | None = None) -> tuple[ImageSet, ImageSet]:
    base, test = (
        fa.data.load(settings.data, split, data_dir=data_dir, size=settings.size, limit=limit)
        for split, limit in (("train", settings.images), ("test", None))
    )
    assert isinstance(base, ImageSet)
    assert isinstance(test, ImageSet)
    if settings.images is not None and len(base) < settings.images:
        raise InputError(f"images: expected at most the {len(base)} of {base.name}, got {settings.images}")
    return base, test


def run(
    settings: Settings,
    base: ImageSet,
    test: ImageSet,
    folder: str | PathLike[str],
    watch: Watch = unwatched,
    *,
    stages: Iterable[str] = STAGES,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Do the stages in `folder`, and return all that is known there; also as results.json and report.md."""
    chosen, path = check_stages(stages), Path(folder)
    config = {**settings.as_json(), "train": base.describe(), "test": test.describe()}
    need("matplotlib")
    with Keeper(path) as keeper:
        known: dict[str, Any] = {}
        there = keeper.found(RESULTS, read_json)
        if there is not None:
            # other architectures may be added: their nets have cards of their own
            check_same(path / RESULTS, *({**one, "others": None} for one in (there["config"], config)))
            known = there["measured"]
        maker = Maker(settings, base, test, path, watch, device)
        for stage in chosen:
            for taken in TAKES.get(stage, ()):
                if taken not in known and taken not in chosen:
                    raise InputError(
                        f"{path}: expected the finished stage {taken}, which the stage {stage} takes, got "
                        "none; run that first, or both"
                    )

        def write() -> dict[str, Any]:
            measured = {stage: known[stage] for stage in STAGES if stage in known}
            return publish(keeper, "study ilyas pipeline", config, report.markdown, **measured)

        result = write()
        # nets this small gain nothing from a second thread
        with one_thread() if settings.scale == "tiny" else nullcontext():
            for stage in chosen:
                began = time.perf_counter()
                # a stage that is only read again has cost what it cost before
                before = known.get(stage, {}).get("seconds", 0.0)
                done = RUN[stage](maker)
                known[stage] = {**done, "seconds": before + time.perf_counter() - began}
                result = write()
    return result


def trained(maker: Maker, names: Iterable[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        maker.net(name)
        past = fa.train.reports(maker.place("net", name))
        seconds = sum(epoch.seconds for epoch in past)
        found[name] = {"epochs": len(past), "loss": past[-1].loss, "seconds": seconds}
    return found


def sets(maker: Maker) -> dict[str, Any]:
    return {name: maker.set(name).card["measured"] for name in maker.settings.sets}


def evaluate(maker: Maker) -> dict[str, Any]:
    """Return every net on the test images: all of them without an attack, the first ones under PGD in L2."""
    s = maker.settings
    found: dict[str, dict[str, Any]] = {}
    attacks = {
        s.attack(r): partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, loss="ce", seed=s.seed)
        for r in s.radii
    }
    for name in s.nets:
        net, what = maker.net(name), f"attacking {name}"
        maker.watch(what, 0, 1)
        clean = fa.evaluate(net, maker.test)
        table = fa.evaluate(
            net,
            maker.test,
            attacks,
            limit=s.tested,
            run_dir=maker.folder / "evaluation" / name,
            resume=True,
            indicators=False,
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
        figures.bars(drawn, main, maker.test.name, path)
    return {"nets": found, "figures": {"all nets": "nets.png"}}


def control(maker: Maker) -> dict[str, Any]:
    """Return the controls of the discussion: other nets, leakage, labels without perturbations."""
    return {
        "fooling": controls.fooling(maker),
        "leakage": controls.leakage(maker),
        "early": controls.early_labels(maker),
    }


def galleries(maker: Maker) -> dict[str, Any]:
    files = {name: f"{file_name(name)}.png" for name in maker.settings.sets}
    for name, file in files.items():
        with writing(path := maker.folder / file):
            figures.gallery(name, maker.images(name), maker.set(name), path)
    return {"figures": {f"{name} beside its source": file for name, file in files.items()}}


def transfer(maker: Maker) -> dict[str, Any]:
    found = controls.transfer(maker)
    with writing(path := maker.folder / "transfer.png"):
        figures.transfer(found, path, maker.settings.architecture.title)
    return {**found, "figures": {"transfer and D_det": "transfer.png"}}


RUN: Mapping[str, Callable[[Maker], dict[str, Any]]] = {
    "nets": lambda maker: trained(maker, SOURCES),
    "sets": sets,
    "train": lambda maker: trained(maker, maker.settings.sets),
    "evaluate": evaluate,
    "controls": control,
    "galleries": galleries,
    "transfer": transfer,
}
TAKES = {
    "sets": ("nets",),
    "train": ("nets", "sets"),
    "evaluate": ("nets", "sets", "train"),
    "controls": ("nets", "sets", "train"),
    "galleries": ("nets", "sets"),
    "transfer": ("nets", "sets"),
}
"""The stages whose nets and sets a stage takes."""
