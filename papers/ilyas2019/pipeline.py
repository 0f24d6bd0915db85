"""Section 3.3 as one resumable run, with the transfer of figure 3."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.files import save_tensors, writing
from fastadv.runs.checkpoint import REPORT
from fastadv.runs.work import Keeper
from papers import study
from papers.ilyas2019 import controls, figures, report
from papers.ilyas2019.maker import Maker, file_name, read, share, split_weights
from papers.ilyas2019.plan import SOURCES, STAGES, Settings, Training

FEWEST = 3  # points that a correlation is told of
KEPT = 64  # images of each set in a small file of their own
Known = dict[str, Any]  # of a stage


def transferred(maker: Maker) -> dict[str, Any]:
    """Return how each architecture learns from D_det, and how often the standard net's attack fools it."""
    test, d_det = maker.test, maker.set("D_det")
    points: list[dict[str, Any]] = []
    clean, attacked, fooled = _adversarials(maker)
    for other in maker.settings.others:
        on = partial(maker.taught, architecture=other)
        taught = on(f"{other.title} on D_det", d_det, maker.settings.training["fixed_shift"])
        target = on(f"{other.title} on D", maker.base, Training())
        right = (read(target, clean) == clean.y) & fooled
        lost = right & (read(target, attacked) != clean.y)
        point: dict[str, Any] = {"architecture": other.title, "attacked": int(right.sum())}
        point["transfer"] = int(lost.sum()) / int(right.sum()) if right.any() else None
        for what, net in (("clean", target), ("accuracy", taught)):
            point[what] = share(read(net, test) == test.y)
        points.append(point)
    pairs = [(point["accuracy"], point["transfer"]) for point in points if point["transfer"] is not None]
    return {"points": points, **correlated(pairs, maker.settings.seed)}


def attack(settings: Settings, radius: float, **options: Any) -> dict[str, Any]:
    """Return PGD at a radius by the name that tables show."""
    s, threat = settings, fa.L2(radius)
    run = partial(fa.attacks.pgd, threat=threat, steps=s.attack_steps, loss="ce", seed=s.seed, **options)
    return {s.attack(radius): run}


def _adversarials(maker: Maker) -> tuple[ImageSet, ImageSet, Tensor]:
    """Return (test images, the same attacked on the standard net, which of these it lost [N])."""
    s, test = maker.settings, maker.test
    given = attack(s, s.push_radius, stop_early=False)
    table = judged(maker, "standard", given, "transfer", keep_samples=True)
    kept = table.samples
    assert kept is not None
    x_adv, x, y = (part.cpu() for part in (kept.x_adv.float(), kept.x.float(), kept.y))
    attacked = ImageSet(x_adv, y, test.classes, f"{test.name}, attacked")
    return ImageSet(x, y, test.classes, test.name), attacked, kept.success.cpu() & table.correct


def judged(
    maker: Maker, net: str, attacks: Mapping[str, Any], folder: str | None = None, **options: Any
) -> fa.evaluation.Table:
    return fa.evaluate(
        maker.net(net), maker.test, attacks, limit=maker.settings.tested, resume=True, indicators=False,
        run_dir=maker.folder / "evaluation" / (folder or net),
        progress=partial(maker.watch, f"attacking {net}{f' for {folder}' if folder else ''}"), **options,
    )  # fmt: skip


def correlated(pairs: Sequence[tuple[float, float]], seed: int = 0) -> dict[str, Any]:
    """Return the correlation of the points and its 95% bootstrap interval; None for fewer than three."""
    if len(pairs) < FEWEST:
        return {"correlation": None, "interval": None}
    interval = fa.evaluation.bootstrap(np.asarray(pairs), _correlation, seed=seed)
    return {"correlation": _correlation(np.asarray(pairs)), "interval": [interval.low, interval.high]}


def _correlation(points: NDArray[Any]) -> float:
    """Pearson's; 0 where one of the two does not vary, as in a resample of one point."""
    if np.ptp(points, axis=0).min() == 0:
        return 0.0
    return float(np.corrcoef(points.T)[0, 1])


def load(settings: Settings, data_dir: str | PathLike[str] | None = None) -> tuple[ImageSet, ImageSet]:
    found = partial(study.load_images, settings.data, data_dir=data_dir, size=settings.size)
    return found("train", limit=settings.images), found("test")


def run(
    settings: Settings,
    base: ImageSet,
    test: ImageSet,
    folder: str | PathLike[str],
    watch: study.Watch = study.unwatched,
    *,
    stages: Iterable[str] = STAGES,
    device: torch.device | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """Do the stages in `folder`, and return all that is known there; "left" is what `budget` left undone."""
    parts, path = tuple(settings.work(stages)), Path(folder)
    config = {**settings.as_json(), "train": base.describe(), "test": test.describe()}
    with Keeper(path) as keeper:
        # the order may change, and other architectures be added: their nets have cards of their own
        known = study.known_in(keeper, config, "others", "chains")
        maker = Maker(settings, base, test, path, study.limited(watch, budget), device)

        def write(left: Sequence[str]) -> dict[str, Any]:
            measured = {key: known[key] for key in (*STAGES, study.SECONDS) if key in known}
            measured |= {"left": left} if left else {}
            return study.publish(keeper, "study ilyas pipeline", config, report.markdown, **measured)

        def do(stage: str, names: Sequence[str]) -> None:
            known[stage] = RUN[stage](maker, names, known.get(stage, {}))

        titles = (f"{stage}: {', '.join(names)}".rstrip(": ") for stage, names in parts)
        work = {title: partial(do, *part) for title, part in zip(titles, parts, strict=True)}
        return study.work_off(work, known.setdefault(study.SECONDS, {}), write)


# Each stage returns what is known after it: what was known before, and what it found of some nets or sets.


def trained(maker: Maker, names: Iterable[str], before: Known) -> Known:
    found = dict(before)
    for name in names:
        maker.net(name)
        place = maker.place("net", name)
        if (place / REPORT).exists():  # not where the weights came from another machine
            past = fa.train.reports(place)
            losses, seconds = ([getattr(epoch, key) for epoch in past] for key in ("loss", "seconds"))
            found[name] = {"epochs": len(past), "losses": losses, "seconds": sum(seconds)}
        if name in SOURCES:
            split_weights(place / study.WEIGHTS, maker.folder / "weights", name)
    return found


def sets(maker: Maker, names: Iterable[str], before: Known) -> Known:
    return before | {name: maker.set(name).card["measured"] for name in names}


def evaluate(maker: Maker, names: Iterable[str], before: Known) -> Known:
    """Attack nets: on all test images without an attack, on the first ones under PGD in L2."""
    s, found = maker.settings, dict(before.get("nets", {}))
    attacks = {name: run for r in s.radii for name, run in attack(s, r).items()}
    for name in names:
        clean = fa.evaluate(maker.net(name), maker.test).clean_accuracy
        table = judged(maker, name, attacks)
        found[name] = {
            "clean": clean,
            "tested": table.n,
            "robust": {row.name: row.robust_accuracy for row in table.rows},
            "intervals": {row.name: list(row.accuracy_interval) for row in table.rows},
            "flags": [flag for row in table.rows for flag in row.flags],
        }
    main = s.attack(s.radii[0])
    drawn = {name: (found[name]["clean"], found[name]["robust"][main]) for name in s.nets if name in found}
    with writing(path := maker.folder / "nets.png"):
        figures.bars(drawn, main, maker.test.name, path)
    return {"nets": found, "figures": {"all nets": "nets.png"}}


def control(maker: Maker, *_: object) -> Known:
    fooling, leakage = controls.fooling(maker), controls.leakage(maker)
    return {"fooling": fooling, "leakage": leakage, "early": controls.early_labels(maker)}


def galleries(maker: Maker, names: Iterable[str], before: Known) -> Known:
    """Draw sets, and keep their first images as they are."""
    drawn = dict(before.get("figures", {}))
    for name in names:
        base, made, file = maker.images(name), maker.set(name), f"{file_name(name)}.png"
        with writing(path := maker.folder / file):
            figures.gallery(name, base, made, path)
        few = {"x": made.x[:KEPT], "y": made.y[:KEPT], "source": base.x[:KEPT], "label": base.y[:KEPT]}
        save_tensors(maker.folder / "images" / f"{file_name(name)}.safetensors", few)
        drawn[f"{name} beside its source"] = file
    return {"figures": drawn}


def transfer(maker: Maker, *_: object) -> Known:
    found = transferred(maker)
    with writing(path := maker.folder / "transfer.png"):
        figures.transfer(found, path, maker.settings.architecture.title)
    return {**found, "figures": {"transfer and D_det": "transfer.png"}}


RUN: Mapping[str, Callable[[Maker, Sequence[str], Known], Known]] = {
    "nets": trained,
    "sets": sets,
    "train": trained,
    "evaluate": evaluate,
    "galleries": galleries,
    "controls": control,
    "transfer": transfer,
}
