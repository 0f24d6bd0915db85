"""The runs of the study: each is trained, measured on the way, and judged."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.runs.files import read_json, write_json
from fastadv.runs.identity import check_same
from fastadv.runs.keeper import Keeper
from fastadv.studies.recipes.figures import CURVES, draw
from fastadv.studies.recipes.plan import PGD, QUICK, Settings, lengths
from fastadv.studies.recipes.report import markdown
from fastadv.studies.study import Watch, judge, publish, trained, unwatched

CHECKPOINT_EVERY = 200
MEASURED, LINE = "measured.json", "line.json"


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    command: str | None = None,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train and evaluate every network; write results.json, report.md and curves.png."""
    data = {"train": train_set.describe(), "test": test_set.describe()}
    with Keeper(folder) as keeper:
        lines = []
        for name, seed in settings.runs:
            told = name if seed == settings.seed else f"{name}, seed {seed}"
            own, place = settings.of(name, seed), folder / settings.folder(name, seed)
            measure = partial(_line, own, train_set, test_set, place, told, watch, device)
            line = str(settings.folder(name, seed) / LINE)
            measured = _kept(keeper, line, {**asdict(own), **data}, measure)
            lines.append({"recipe": name, "seed": seed, **measured})
        config = {**asdict(settings), **data}
        result = publish(keeper, "study recipes", config, markdown, lines=lines)
        keeper.result(CURVES, partial(draw, result, command=command))
        return result


def _kept(
    keeper: Keeper, file: str, config: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return the line in `file`, beside which the weights may be gone; else measure it, and keep it there."""
    known = keeper.found(file, read_json)
    if known is not None:
        check_same((keeper.path or Path()) / file, known["config"], config)
        return dict(known["measured"])
    measured = measure()
    keeper.result(file, lambda path: write_json(path, {"config": config, "measured": measured}))
    return measured


def _line(
    own: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    told: str,
    watch: Watch,
    device: torch.device | None,
) -> dict[str, Any]:
    """Train and judge one net; return what was measured."""
    recipe, threat = own.recipe(), own.threat
    epochs, ramp = lengths(own, recipe)
    pgd = partial(fa.attacks.pgd, threat=threat, steps=20, step_size=own.radius / 8, loss="ce", seed=own.seed)
    quick = partial(fa.attacks.autoattack, threat=threat, version="quick", seed=own.seed, indicators=False)
    with Keeper(folder) as keeper:
        keeper.identify(MEASURED, {name: getattr(own, name) for name in ("tested", "test_every", "watched")})
    model = trained(
        own.model, train_set, recipe, folder, seed=own.seed, options=own.options, epochs=epochs,
        batch_size=own.batch_size, optimizer=own.optimizer, learning_rate=own.learning_rate, device=device,
        augment=own.augment or None, optimization=fa.train.Optimization(
            ramp=ramp, weight_decay=own.weight_decay, schedule=own.schedule, ema=own.ema
        ),
        test_set=test_set, test_attacks={PGD: pgd} | ({QUICK: quick} if own.watched else {}),
        measuring=fa.train.Measuring(test_limit=own.tested, test_every=own.test_every),
        execution=fa.train.Execution(checkpoint_every=CHECKPOINT_EVERY, precision=own.precision),
        progress=partial(watch, f"training {told}"),
    )  # fmt: skip
    past = fa.train.reports(folder)
    curve = [_point(report) for report in past if report.tested]
    shown = [point["averaged"] or point for point in curve]
    alarms = [{"epoch": report.epoch, "text": report.alarm} for report in past if report.alarm]
    watch(f"judging {told}", 0, 1)
    if own.ema is not None:
        fa.models.load_weights(model, folder / "ema.safetensors")
    table, robust = judge(model, test_set, threat, own, folder / "evaluation")
    line: dict[str, Any] = {
        "seconds": sum(report.seconds for report in past),
        "clean": table.clean_accuracy,
        "pgd": shown[-1][PGD],
        "autoattack": robust,
        "best_pgd": max(point[PGD] for point in shown),
        "best_autoattack": None,
        "alarms": alarms,
        "judged": table.n,
        "curve": curve,
    }
    if alarms:
        watch(f"judging the best weights of {told}", 0, 1)
        fa.models.load_weights(model, folder / "best.safetensors")
        line["best_autoattack"] = judge(model, test_set, threat, own, folder / "evaluation_best")[1]
    return line


def _point(report: fa.train.EpochReport) -> dict[str, Any]:
    """Return the accuracies of an epoch, and those of the averaged weights where there are such."""
    averaged = {"clean": report.ema_clean_accuracy, **report.ema_robust_accuracy}
    return {
        "epoch": report.epoch,
        "clean": report.clean_accuracy,
        "own": report.own_accuracy,
        **report.robust_accuracy,
        "averaged": averaged if report.ema_robust_accuracy else None,
    }
