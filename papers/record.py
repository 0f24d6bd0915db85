"""Records: what training for so many seconds leaves under AutoAttack; papers/results/records.md has rules."""

import math
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.card import machine
from fastadv.data import ImageSet
from fastadv.runs.work import Keeper
from papers import command as c
from papers import study
from papers.text import percent

THREAT = fa.Linf(8 / 255)
EPOCHS = 100_000  # more than any budget has


@dataclass(frozen=True)
class Settings:
    """All that a record depends on, but for its images and the speed of the machine."""

    budget: int = 0  # seconds
    data: str = "cifar10"
    model: str = "resnet18"
    width: int = 64
    steps: int = 0  # of PGD; 0: N-FGSM
    batch_size: int = 128
    learning_rate: float = 0.2
    ema: float = 0.999
    precision: str = "bf16"
    compile: bool = False  # about 40 seconds of the budget
    version: str = "standard"  # of AutoAttack
    seed: int = 0


# by the least budget; those for a GPU follow from the time of a step there, and are not measured
PLANS = {
    "tiny": {1: Settings(data="digits", model="small_cnn", width=4, precision="fp32", version="quick")},
    "cpu": {1: Settings(width=8, batch_size=64, ema=0.99, precision="fp32")},
    "gpu": {
        1: Settings(), 180: Settings(steps=7, compile=True), 600: Settings(steps=7, compile=True, ema=0.9995),
    },
}  # fmt: skip
TARGETS = {90: 0.43, 240: 0.475, 720: 0.5}  # under AutoAttack, by the budget of a GPU


@dataclass
class Clock:
    """The seconds of a budget: the learning rate follows them, and training stops where they are spent."""

    budget: int
    device: torch.device
    watch: study.Watch
    began: float
    epochs: float = 0.0  # done

    def spent(self) -> float:
        return time.perf_counter() - self.began

    def rate(self, done: float) -> float:
        return fa.train.OneCycle()(min(self.spent() / self.budget, 1.0))  # not by the share of EPOCHS done

    def __call__(self, done: int, total: int) -> None:
        self.epochs = EPOCHS * done / total
        if self.device.type == "cuda":
            if done % 10:
                return  # a look at the clock waits for the GPU
            torch.cuda.synchronize(self.device)
        self.watch("seconds of training", int(self.spent()), self.budget)
        if self.spent() >= self.budget:
            raise study.Spent


def train(
    net: nn.Module, s: Settings, sets: Sequence[ImageSet], device: torch.device, watch: study.Watch
) -> Iterator[dict[str, Any]]:
    """Train to averaged weights; yield after each epoch where training is, which costs none of its time."""
    pgd = partial(fa.train.PGDTraining, steps=s.steps)  # of 2.5 radii in all
    recipe = (pgd if s.steps else partial(fa.train.FastTraining, method="n-fgsm"))(THREAT)
    average, clock = deepcopy(net).eval(), Clock(s.budget, device, watch, time.perf_counter())
    loss: float | None = 0.0
    epochs = fa.train.epochs(
        net, sets[0], recipe, epochs=EPOCHS, batch_size=s.batch_size, learning_rate=s.learning_rate,
        augment="crop_flip", seed=s.seed, progress=clock,
        optimization=fa.train.Optimization(schedule=clock.rate, ema=s.ema),
        execution=fa.train.Execution(precision=s.precision, compile=s.compile),
    )  # fmt: skip
    while loss is not None:
        try:
            loss = next(epochs).loss
        except study.Spent:
            loss = None  # of an epoch that did not end
        seconds = clock.spent()
        average.load_state_dict(epochs.averaged())
        found = fa.evaluate(average, sets[1], "pgd", threat=THREAT, limit=500)
        shares = {"clean": found.clean_accuracy, "PGD": found["pgd"].robust_accuracy}
        yield {"epochs": clock.epochs, "seconds": seconds, "loss": loss, **shares}
        clock.began += clock.spent() - seconds
    net.load_state_dict(average.state_dict())


def judged(
    net: nn.Module, s: Any, test_set: ImageSet, count: int, folder: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Attack by AutoAttack, in the precision and version of `s`; the folder resumes."""
    attack = {"AutoAttack": partial(fa.attacks.autoattack, version=s.version)}
    model = fa.freeze(net, "bf16" if s.precision == "bf16" else None)
    kept: dict[str, Any] = {"run_dir": folder, "resume": True, "progress": progress}
    found = fa.evaluate(model, test_set, attack, threat=THREAT, limit=count, **kept)
    shares = {"clean": found.clean_accuracy, "robust": found["AutoAttack"].robust_accuracy}
    return {"images": found.n, **shares, "seconds": found["AutoAttack"].seconds, "verdict": found.verdict}


def run(
    s: Settings, sets: Sequence[ImageSet], folder: Path, images: int, watch: study.Watch, device: torch.device
) -> dict[str, Any]:
    """Train and attack; what the folder holds is not done again."""
    config = asdict(s) | {"train": sets[0].describe(), "test": sets[1].describe()}
    options = {"width": s.width} | ({} if s.data == "digits" else {"normalize": s.data})
    net = fa.models.create(s.model, shape=sets[0].shape, classes=10, seed=s.seed, **options).to(device)
    weights = folder / study.WEIGHTS
    with Keeper(folder) as keeper:
        known = study.known_in(keeper, config)
        if known and weights.exists():
            fa.models.load_weights(net, weights)
        else:
            known = {"trained on": machine(), "curve": []}
            for point in train(net, s, sets, device, watch):
                known["curve"].append(point)
                study.publish(keeper, "record", config, **known)
            fa.models.save_weights(net, weights, {"config": config, **known})
        if known.get("AutoAttack", {}).get("images") != images:
            run_dir, progress = folder / f"autoattack-{images}", partial(watch, "under AutoAttack")
            known["AutoAttack"] = judged(net.eval(), s, sets[1], images, run_dir, progress)
        return study.publish(keeper, "record", config, **known)


def p_value(values: Sequence[float], target: float) -> float:
    """Return that of a one-sided t test that the mean of two or more values is above the target."""
    n = len(values)
    # t = sqrt(n - 1) tan(a): the tail of Student's t is an integral of cos(a)^(n - 2)
    above, deviation = statistics.fmean(values) - target, statistics.stdev(values)
    first = math.atan2(above * math.sqrt(n), deviation * math.sqrt(n - 1))
    a = torch.linspace(first, math.pi / 2, 100_001, dtype=torch.float64)
    factor = math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2)) / math.sqrt(math.pi)
    return factor * float(torch.trapezoid(a.cos() ** (n - 2), a))


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    cells = [["seed", "trained in", "epochs", "clean", "AutoAttack", "images", "took"]]
    for result in results:
        last, found = result["measured"]["curve"][-1], result["measured"]["AutoAttack"]
        trained = [str(result["config"]["seed"]), f"{last['seconds']:.1f} s", f"{last['epochs']:.2f}"]
        shares = [percent(found[share], 2) for share in ("clean", "robust")]
        cells.append([*trained, *shares, f"{found['images']:,}", f"{found['seconds']:,.0f} s"])
    return cells


def notes(results: Sequence[dict[str, Any]]) -> list[str]:
    config, there = results[0]["config"], results[0]["measured"]["trained on"]
    robust = [result["measured"]["AutoAttack"]["robust"] for result in results]
    told = f"mean under AutoAttack: {percent(statistics.fmean(robust), 2)}"
    if there["gpu"] and len(robust) > 1 and (target := TARGETS.get(config["budget"])):
        p = p_value(robust, target)
        told += f"; the target of {percent(target)} is {'' if p < 0.01 else 'not '}met (p = {p:.2g})"
    place = f"{there['gpu'] or there['cpu']}, {there['threads']} threads, torch {there['torch']}"
    return [told, place, *filter(None, [config["train"]["note"]])]


def do(asked: Namespace, watch: study.Watch) -> Iterator[Any]:
    device, budget, results = c.device_of(asked), asked.budget, []
    asked.kept = "runs that ended are kept in {run_dir}; the same command does the others"
    plans = PLANS[asked.scale or ("cpu" if device.type == "cpu" else "gpu")]
    plan = plans[max(least for least in plans if least <= budget)]
    sets = [study.load_images(plan.data, split, data_dir=asked.data_dir) for split in ("train", "test")]
    for seed in range(asked.seed, asked.seed + asked.seeds):
        s, folder = replace(plan, budget=budget, seed=seed), asked.run_dir / f"{budget}s-seed-{seed}"
        results.append(run(s, sets, folder, min(asked.images, len(sets[1])), watch, device))
    yield results
    c.print_table(f"Training for {budget} seconds", table(results), notes(results))
    c.say_where({"logs": asked.run_dir / f"{budget}s-seed-*" / study.RESULTS})
