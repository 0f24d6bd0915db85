"""Section 5: logistic regression of two digits, trained against FGSM, in closed form, and with L1 decay."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.files import read_json, write_json
from fastadv.runs.identity import check_same
from papers.goodfellow2014 import figures
from papers.goodfellow2014.bench import Bench, Line
from papers.goodfellow2014.figures import CLOSED, FGSM
from papers.goodfellow2014.plan import Settings
from papers.goodfellow2014.recipes import RobustLogistic, WeightDecayL1
from papers.study import NO_BOX, Watch, unit

CLASSES = (3, 7)
COEFFICIENTS = (0.0025, 0.025, 0.25)  # of L1 decay
BATCH_SIZE, LEARNING_RATE = 128, 0.01


def two_digits(bench: Bench) -> Iterator[Line]:
    """Logistic regression of 3 against 7: its worst case in closed form, and L1 decay."""
    train_set, test_set = (images.only(CLASSES) for images in (bench.nets.train_set, bench.test_set))
    found = logistic(train_set, test_set, bench.folder / "logistic", bench.settings, bench.nets.watch)
    bench.details["logistic"] = found
    figures.logistic(found, bench.figure("logistic", "logistic regression"))
    for name, net in found["nets"].items():
        last, plain = net["rows"][-1], name == "plain"
        yield Line(f"{name}, clean", last["clean"], None, (0.016 if plain else None, None))
        yield Line(f"{name}, FGSM", last["fgsm"], None, (0.99 if plain else None, None))


def logistic(
    train_set: ImageSet, test_set: ImageSet, folder: Path, settings: Settings, watch: Watch
) -> dict[str, Any]:
    """Train logistic regression in every way, in no box, and measure it after each epoch; runs resume."""
    radius, epochs, seed = settings.radius, settings.shallow_epochs, settings.seed
    nets: dict[str, dict[str, Any]] = {}
    weights: dict[str, Tensor] = {}
    ball = fa.Linf(radius, box=NO_BOX)
    recipes: dict[str, fa.train.Recipe] = {
        "plain": fa.train.Standard(),
        FGSM: fa.train.FGSMTraining(ball, weight=0.0),
        CLOSED: RobustLogistic(ball, weight=0.0),
        **{f"L1 decay {c:g}": WeightDecayL1(c) for c in COEFFICIENTS},
    }
    for place, (name, recipe) in enumerate(recipes.items()):
        model = fa.models.LogisticRegression(train_set.shape, seed=seed).double()
        own = folder / name.replace(" ", "_")
        train = partial(
            fa.train.fit, model, train_set, recipe, run_dir=own / "run", resume=True, batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE, seed=seed,
            optimization=fa.train.Optimization(weight_decay=0.0, schedule="constant"),
        )  # fmt: skip
        config = {"radius": radius, "test_set": test_set.describe()}
        rows: list[dict[str, float]] = []
        if (own / "rows.json").is_file():
            known = read_json(own / "rows.json")
            rows = known.pop("rows")
            check_same(own / "rows.json", known, config)
        # one epoch more each time, so that what is measured after it is kept with it
        for epoch in range(len(rows) + 1, epochs + 1):
            watch(name, place * epochs + epoch, len(recipes) * epochs)
            train(epochs=epoch)
            seconds = fa.train.reports(own / "run")[-1].seconds
            rows.append(_row(model, recipe, train_set, test_set, ball) | {"seconds": seconds})
            write_json(own / "rows.json", {**config, "rows": rows})
        train(epochs=epochs)  # nothing is left, but rows of another run are refused, and the weights are here
        nets[name] = {"rows": rows, "seconds": median(row["seconds"] for row in rows)}
        weights[name] = model.linear.weight.detach().clone()
    apart = (weights[FGSM] - weights[CLOSED]).abs().max() / weights[CLOSED].abs().max()
    return {
        "classes": list(train_set.classes),
        "radius": radius,
        "nets": nets,
        "apart": float(apart),  # of FGSM training and the closed form, beside the largest weight
        "faster": nets[FGSM]["seconds"] / nets[CLOSED]["seconds"],
    }


def _row(
    model: fa.models.LogisticRegression, recipe: fa.train.Recipe, train_set: ImageSet, test_set: ImageSet,
    ball: fa.Linf,
) -> dict[str, float]:  # fmt: skip
    """Return what one epoch led to: errors on the test set, and the margins and weights of training."""
    radius = float(ball.radius)
    attacks = {"fgsm": partial(fa.attacks.fgsm, threat=ball, loss="ce")}
    table = fa.evaluate(model, test_set, attacks, batch_size=4096, indicators=False)
    with torch.no_grad():
        logits = model(unit(train_set.x).double())
        margin = (logits[:, 1] - logits[:, 0]) * (2 * train_set.y - 1)
        norm = float(model.linear.weight.abs().sum())
    pull = 0.0
    if isinstance(recipe, WeightDecayL1):
        pull = recipe.coefficient
    elif not isinstance(recipe, fa.train.Standard):
        pull = radius * float((radius * norm - margin).sigmoid().mean())
    return {
        "clean": 1 - table.clean_accuracy,
        "fgsm": 1 - table["fgsm"].robust_accuracy,
        "norm": norm,  # |w|₁
        "margin": float(margin.mean()),  # y (w x + b) over the training set
        "pull": pull,  # the derivative by |w|₁ of what the recipe adds to the plain loss
    }
