"""Section 3.3 as one resumable run, and controls of distill.pub/2019/advex-bugs-discussion."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

import fastadv as fa
from fastadv._checks import check_some
from fastadv._extras import need
from fastadv.data import ImageSet
from fastadv.data.imageset import to_unit
from fastadv.models.shards import split_weights
from fastadv.runs.files import save_tensors, writing
from fastadv.runs.folder import Keeper
from fastadv.runs.record import REPORT
from fastadv.studies.ilyas2019 import figures, report
from fastadv.studies.ilyas2019.maker import Maker, file_name, read, share
from fastadv.studies.ilyas2019.plan import SOURCES, STAGES, Settings, Training
from fastadv.studies.study import (
    SECONDS,
    WEIGHTS,
    Watch,
    known_in,
    limited,
    load_images,
    one_thread,
    publish,
    unwatched,
    work_off,
)

DIRECTIONS = 64  # candidates for robust features
MEASURED = 1000  # images on which their margin is measured
FEWEST = 3  # points that a correlation is told of
KEPT = 64  # images of each set in a small file of their own
Known = dict[str, Any]
"""What is known of a stage."""


def fooling(maker: Maker) -> dict[str, Any]:
    """Return how many of the images whose label is not their own get which label from two standard nets."""
    independent, found = maker.net("independent"), {}
    for name in maker.settings.pushed:
        made = maker.set(name)
        changed = made.y != made.original_labels
        seen = {"source": made.figures["predicted"], "independent": read(independent, made)}
        found[name] = {
            who: {
                "label": share(labels == made.y, changed),
                "true": share(labels == made.original_labels, changed),
            }
            for who, labels in seen.items()
        }
    return found


def leakage(maker: Maker) -> dict[str, Any]:
    """Return how a linear model on provably robust features, taught by each set, reads the test set."""
    # after Goh, response 2 of the discussion: in D_det robust features speak for the class after the true one
    base, test, pushed = maker.base, maker.test, maker.settings.pushed
    directions = robust_directions(base, fa.L2(maker.settings.push_radius))
    sets: dict[str, ImageSet] = {"D": base} | {name: maker.set(name) for name in pushed}
    linear = {name: _answers(linear_model(made, test, directions), test) for name, made in sets.items()}
    nets = {name: _answers(read(maker.net(name), test), test) for name in pushed}
    return {"features": len(directions), "linear": linear, "net": nets}


def early_labels(maker: Maker) -> dict[str, Any]:
    """Return what a net learns from the images alone that an early net mislabels, with these labels."""
    base, test, epochs = maker.base, maker.test, maker.settings.early_epochs
    early = maker.taught("early", base, Training(schedule="constant", epochs=epochs))
    said = read(early, base)
    wrong = (said != base.y).nonzero().squeeze(1)
    taught = None
    if len(wrong):
        name = f"{base.name}, mislabeled"
        mislabeled = ImageSet(base.x[wrong], said[wrong], base.classes, name, note=base.note)
        net = maker.taught("early labels", mislabeled, Training(augmented=False))
        taught = share(read(net, test) == test.y)
    accuracy = share(read(early, test) == test.y)
    return {"epochs": epochs, "early": accuracy, "images": len(wrong), "taught": taught}


def robust_directions(base: ImageSet, threat: fa.L2) -> Tensor:
    """Return unit directions [F, D] of features useful for some class against any perturbation."""
    x = to_unit(base.x).flatten(1)
    means = torch.stack([x[base.y == k].mean(0) for k in sorted(set(base.y.tolist()))]) - x.mean(0)
    principal = torch.linalg.eigh(torch.cov(x.T).double())[1].T.flip(0)[:DIRECTIONS].float()
    directions = normalize(torch.cat([means, principal]))
    count, size = directions.shape
    projection, readout = nn.Linear(size, count, bias=False), nn.Linear(count, base.num_classes)
    projection.weight.data.copy_(directions)
    model = nn.Sequential(nn.Flatten(), projection, readout)
    picked = base.subset(range(min(len(base), MEASURED)))
    gamma = fa.features.usefulness(model, picked, threat, batch_size=1024).gamma  # exact: they are linear
    return directions[(gamma > 0).any(1)]


def linear_model(taught: ImageSet, test: ImageSet, directions: Tensor) -> Tensor:
    """Return [N], the classes of the test images by least squares on one-hot labels of `taught`."""

    def features(images: ImageSet) -> Tensor:  # and 1, [N, F + 1]
        values = (to_unit(images.x).flatten(1) @ directions.T).double()
        return torch.cat([values, torch.ones(len(values), 1, dtype=torch.float64)], 1)

    labels = one_hot(taught.y, taught.num_classes).double()
    weights = torch.linalg.lstsq(features(taught), labels).solution
    scores: Tensor = features(test) @ weights
    return scores.argmax(1)


def _answers(said: Tensor, test: ImageSet) -> dict[str, float]:
    return {"true": share(said == test.y), "next": share(said == (test.y + 1) % test.num_classes)}


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
        points.append(
            {
                "architecture": other.title,
                "clean": share(read(target, test) == test.y),
                "accuracy": share(read(taught, test) == test.y),
                "transfer": int(lost.sum()) / int(right.sum()) if right.any() else None,
                "attacked": int(right.sum()),
            }
        )
    pairs = [(point["accuracy"], point["transfer"]) for point in points if point["transfer"] is not None]
    return {"points": points, **correlated(pairs, maker.settings.seed)}


def _adversarials(maker: Maker) -> tuple[ImageSet, ImageSet, Tensor]:
    """Return (test images, the same attacked on the standard net, which of these it lost [N])."""
    s, test = maker.settings, maker.test
    attack = partial(
        fa.attacks.pgd, threat=fa.L2(s.push_radius), steps=s.attack_steps, loss="ce", stop_early=False,
        seed=s.seed,
    )  # fmt: skip
    table = judged(maker, "standard", {s.attack(s.push_radius): attack}, "transfer", keep_samples=True)
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
    found = partial(load_images, settings.data, data_dir=data_dir, size=settings.size)
    return found("train", limit=settings.images), found("test")


def run(
    settings: Settings,
    base: ImageSet,
    test: ImageSet,
    folder: str | PathLike[str],
    watch: Watch = unwatched,
    *,
    stages: Iterable[str] = STAGES,
    device: torch.device | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """Do the stages in `folder`, and return all that is known there; also as results.json and report.md.

    After `budget` seconds the run stops as if interrupted; "left" says what was asked for and is not done.
    """
    chosen, path = check_some("stages", stages, STAGES), Path(folder)
    config = {**settings.as_json(), "train": base.describe(), "test": test.describe()}
    need("matplotlib")
    with Keeper(path) as keeper:
        # the order may change, and other architectures be added: their nets have cards of their own
        known = known_in(keeper, config, "others", "chains")
        maker = Maker(settings, base, test, path, limited(watch, budget), device)

        def write(left: Sequence[str]) -> dict[str, Any]:
            measured = {key: known[key] for key in (*STAGES, SECONDS) if key in known}
            measured |= {"left": left} if left else {}
            return publish(keeper, "study ilyas pipeline", config, report.markdown, **measured)

        def do(stage: str, names: Sequence[str]) -> None:
            known[stage] = RUN[stage](maker, names, known.get(stage, {}))

        work = {titled(*part): partial(do, *part) for part in settings.work(chosen)}
        # nets this small gain nothing from a second thread
        with one_thread() if settings.scale == "tiny" else nullcontext():
            return work_off(work, known.setdefault(SECONDS, {}), write)


def titled(stage: str, names: Iterable[str]) -> str:
    return f"{stage}: {', '.join(names)}".rstrip(": ")


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
            split_weights(place / WEIGHTS, maker.folder / "weights", name)
    return found


def sets(maker: Maker, names: Iterable[str], before: Known) -> Known:
    return before | {name: maker.set(name).card["measured"] for name in names}


def evaluate(maker: Maker, names: Iterable[str], before: Known) -> Known:
    """Attack nets: on all test images without an attack, on the first ones under PGD in L2."""
    s, found = maker.settings, dict(before.get("nets", {}))
    attacks = {
        s.attack(r): partial(fa.attacks.pgd, threat=fa.L2(r), steps=s.attack_steps, loss="ce", seed=s.seed)
        for r in s.radii
    }
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
    return {"fooling": fooling(maker), "leakage": leakage(maker), "early": early_labels(maker)}


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
