"""The recipes of adversarial training side by side: MNIST at L-infinity 0.3, one network, the same epochs.

Every run, every evaluation and the table lie in one folder, in which a study that was stopped goes on. Each
net is judged by AutoAttack, on the weights after the last epoch.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.attacks.autoattack import Version
from fastadv.data import ImageSet
from fastadv.evaluation.text import in_markdown, percent
from fastadv.runs.keeper import Keeper
from fastadv.studies.study import Watch, judge, publish, trained, unwatched

STEPS, REPLAYS = 7, 4
CHECKPOINT_EVERY = 200
PGD = "PGD-20"


def _strong(threat: fa.Linf) -> dict[str, Any]:
    return {"threat": threat, "steps": STEPS, "step_size": float(threat.radius) / 3}


RECIPES: dict[str, Callable[[fa.Linf], Any]] = {
    "standard": lambda threat: fa.train.Standard(),
    "fgsm": lambda threat: fa.train.FGSMTraining(threat),
    "fgsm-rs": lambda threat: fa.train.FastTraining(threat),
    "n-fgsm": lambda threat: fa.train.FastTraining(threat, method="n-fgsm"),
    "free": lambda threat: fa.train.FreeTraining(threat, replays=REPLAYS),
    "pgd": lambda threat: fa.train.PGDTraining(**_strong(threat)),
    "pgd+awp": lambda threat: fa.train.AWP(fa.train.PGDTraining(**_strong(threat))),
    "trades": lambda threat: fa.train.TRADES(**_strong(threat)),
    "trades+awp": lambda threat: fa.train.AWP(fa.train.TRADES(**_strong(threat))),
    "mart": lambda threat: fa.train.MART(**_strong(threat)),
}


@dataclass(frozen=True)
class Settings:
    """What the study depends on.

    tested: images on which each epoch is measured; judged: images for this version of AutoAttack.
    """

    recipes: tuple[str, ...] = tuple(RECIPES)
    radius: float = 0.3
    epochs: int = 10
    ramp: int = 2
    batch_size: int = 64
    learning_rate: float = 0.002
    tested: int = 1000
    judged: int = 500
    version: Version = "standard"
    seed: int = 0


def lengths(settings: Settings, recipe: Any) -> tuple[int, int | None]:
    """Return how many epochs a recipe gets, and how many of them with a growing radius.

    An epoch of Free costs as much as one of the others for each replay, so it gets as many times fewer.
    """
    replays = getattr(recipe, "replays", 1)
    epochs, ramp = (-(-count // replays) for count in (settings.epochs, settings.ramp))
    if isinstance(recipe, fa.train.Standard):
        ramp = 0
    return epochs, (ramp if replays == 1 else min(ramp, epochs - 1)) or None


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train and judge every net in `folder`; write results.json and report.md there, and return the results.

    Finished epochs and finished batches of the evaluation are kept. The folder may hold a study with other
    recipes and the same settings. Raises InputError where a run in it is of other settings or data.
    """
    threat = fa.Linf(settings.radius)
    pgd = partial(fa.attacks.pgd, threat=threat, steps=20, step_size=settings.radius / 8, seed=settings.seed)

    def line(name: str) -> dict[str, Any]:
        recipe, own = RECIPES[name](threat), folder / name
        epochs, ramp = lengths(settings, recipe)
        model = trained(
            "wong_cnn", train_set, recipe, own, seed=settings.seed, epochs=epochs, optimizer="adam",
            batch_size=settings.batch_size, learning_rate=settings.learning_rate, device=device,
            optimization=fa.train.Optimization(ramp=ramp, weight_decay=0.0, schedule="cosine"),
            test_set=test_set, test_attacks={PGD: pgd},
            measuring=fa.train.Measuring(test_limit=settings.tested),
            execution=fa.train.Execution(checkpoint_every=CHECKPOINT_EVERY),
            progress=partial(watch, f"training {name}"),
        )  # fmt: skip
        past = fa.train.reports(own)
        watch(f"judging {name}", 0, 1)
        table, robust = judge(model, test_set, threat, settings, own / "evaluation")
        return {
            "recipe": name,
            "seconds": sum(report.seconds for report in past),
            "clean": table.clean_accuracy,
            "pgd": past[-1].robust_accuracy[PGD],
            "autoattack": robust,
            "best_pgd": max(report.robust_accuracy[PGD] for report in past),
            "alarms": [{"epoch": report.epoch, "text": report.alarm} for report in past if report.alarm],
            "judged": table.n,
        }

    with Keeper(folder) as keeper:
        lines = [line(name) for name in settings.recipes]
        config = {**asdict(settings), "train": train_set.describe(), "test": test_set.describe()}
        return publish(keeper, "study recipes", config, markdown, lines=lines)


def table(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each recipe, the head first."""
    cells = [["recipe", "clean", "PGD-20", "best epoch", "AutoAttack", "seconds", "alarm"]]
    for line in result["measured"]["lines"]:
        alarms = "; ".join(f"epoch {one['epoch']}: {one['text'].partition(':')[0]}" for one in line["alarms"])
        shares = (percent(line[key], 1) for key in ("clean", "pgd", "best_pgd", "autoattack"))
        cells.append([line["recipe"], *shares, f"{line['seconds']:.0f}", alarms or "-"])
    return cells


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table must know."""
    config, judged = result["config"], result["measured"]["lines"][0]["judged"]
    return [
        f"L-infinity {config['radius']:g} on MNIST, wong_cnn, {config['epochs']} epochs, of which "
        f"{config['ramp']} with a growing radius, seed {config['seed']}; "
        f"free: {-(-config['epochs'] // REPLAYS)} epochs, each with {REPLAYS} steps on a batch",
        f"clean, AutoAttack ({config['version']}): the first {judged} test images; PGD-20: the first "
        f"{config['tested']}, after each epoch; seconds: of training, with these tests",
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    title = "# Recipes of adversarial training side by side"
    return "\n\n".join([title, in_markdown(table(result)), *notes(result)]) + "\n"
