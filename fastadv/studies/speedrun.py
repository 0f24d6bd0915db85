"""CIFAR-10, a ResNet-18, L-infinity 8/255: to a stated accuracy under AutoAttack in the least time.

The record counts the seconds of training alone: no test runs in between, and the averaged weights are judged
once, at the end. Reading the data and judging are told apart from it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.attacks.autoattack import Version
from fastadv.data import ImageSet
from fastadv.runs.card import card
from fastadv.runs.description import describe
from fastadv.runs.files import write_json
from fastadv.runs.keeper import Keeper
from fastadv.studies.study import Watch, judge, trained, unwatched
from fastadv.text import percent

THREAT = fa.Linf(8 / 255)


@dataclass(frozen=True)
class Settings:
    """All that a record depends on.

    The defaults are for a GPU and the usual ResNet-18: the schedule, label smoothing, weight decay and moving
    average of the FastAT Benchmark (github.com/fzjcdt/FastAT_Benchmark), whose PGD-10 reaches 50.5% after 100
    epochs.
    """

    goal: float = 0.5  # accuracy under AutoAttack
    width: int = 64  # channels of the first stage
    images: int | None = None  # train on this many images only; None uses all
    epochs: int = 40
    batch_size: int = 256
    learning_rate: float = 0.2  # the largest of the schedule
    ema: float = 0.999  # decay of the averaged weights
    recipe: Any = field(
        default_factory=lambda: fa.train.PGDTraining(THREAT, steps=7, step_size=2 / 255, label_smoothing=0.3)
    )
    augment: tuple[str, ...] = ("crop", "alternating_flip")  # augmentations, by name
    judged: int = 1000  # test images for AutoAttack
    version: Version = "standard"
    seed: int = 0  # of training and of AutoAttack


SIZES = {
    "full": Settings(),
    "small": Settings(
        goal=0.2, width=16, images=10_000, epochs=15, batch_size=128, ema=0.995, judged=200,
        recipe=fa.train.FastTraining(THREAT, method="n-fgsm", label_smoothing=0.1),
    ),
}  # fmt: skip
"""The record for a GPU, and a small one of some minutes on two cores, by the same code."""


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    precision: str = "bf16",
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Train a network, evaluate it, and write record.json. An interrupted run resumes."""
    with Keeper(folder):
        model = trained(
            "resnet18", train_set, settings.recipe, folder / "training", seed=settings.seed,
            options={"width": settings.width, "normalize": "cifar10"}, epochs=settings.epochs,
            batch_size=settings.batch_size, learning_rate=settings.learning_rate, augment=settings.augment,
            optimization=fa.train.Optimization(schedule="one_cycle", ema=settings.ema), device=device,
            execution=fa.train.Execution(precision=precision), progress=partial(watch, "training"),
        )  # fmt: skip
        past = fa.train.reports(folder / "training")
        fa.models.load_weights(model, folder / "training" / "ema.safetensors")
        started = time.perf_counter()
        watch("judging", 0, 1)
        table, robust = judge(model, test_set, THREAT, settings, folder / "judging")
        config = {**asdict(settings), "recipe": describe(settings.recipe), "precision": precision}
        seconds = sum(report.seconds for report in past)
        record = card(
            "speedrun",
            {**config, "train": train_set.describe(), "test": test_set.describe()},
            seconds=seconds,
            images_per_second=len(train_set) * len(past) / seconds,
            clean=table.clean_accuracy,
            autoattack=robust,
            judged=table.n,
            judging_seconds=time.perf_counter() - started,
            reached=robust >= settings.goal,
        )
        write_json(folder / "record.json", record)
    return record


def in_words(record: Mapping[str, Any]) -> list[str]:
    measured, config, machine = record["measured"], record["config"], record["machine"]
    verdict, samples = "reached" if measured["reached"] else "missed", config["train"]["samples"]
    robust, clean = percent(measured["autoattack"]), percent(measured["clean"])
    return [
        f"{verdict} the goal of {percent(config['goal'])}: {robust} under AutoAttack ({config['version']}, "
        f"{measured['judged']} test images), {clean} clean",
        f"{measured['seconds']:.0f} seconds of training, {measured['images_per_second']:.0f} images a "
        f"second: {config['epochs']} epochs of {samples} images, ResNet-18 of width {config['width']}",
        f"on {machine['gpu'] or machine['cpu']}, torch {machine['torch']}, {config['precision']}",
    ]
