"""Adversarial training on CIFAR-10 by PGD-10, N-FGSM and TRADES, judged by AutoAttack.

Prints accuracy and seconds of each recipe beside published rows. Where the package autoattack of its authors
is installed, it attacks the same images. With --budget, trains a record. An interrupted command resumes.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.runs.identity import plain
from fastadv.runs.work import Keeper
from papers import command as c
from papers import record, study
from papers.text import in_markdown, percent

STEPS: dict[str, Any] = {"steps": 10, "step_size": 2 / 255}
# recipe, largest learning rate, and (clean, AutoAttack) of a ResNet-18 elsewhere, with its source
RECIPES: Mapping[str, tuple[Any, float, tuple[float | None, float, str]]] = {
    "PGD-10": (partial(fa.train.PGDTraining, **STEPS), 0.2, (
        82.4, 50.49, "FastAT benchmark, 100 epochs")),
    "N-FGSM": (partial(fa.train.FastTraining, method="n-fgsm"), 0.2, (
        78.6, 47.77, "FastAT benchmark, 100 epochs")),
    "TRADES": (partial(fa.train.TRADES, **STEPS), 0.1, (None, 49.45, "MAIR 2025")),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All that the study depends on."""

    data: str = "cifar10"
    model: str = "resnet18"
    width: int = 64
    images: int | None = None  # of the training set; None: all
    epochs: int = 30
    batch_size: int = 128
    ema: float = 0.999
    precision: str = "bf16"
    version: str = "standard"  # of AutoAttack
    tested: int = 1000  # test images under AutoAttack
    whole: int | None = 10_000  # test images under AutoAttack for the first recipe; None: no more
    seed: int = 0


SCALES = {
    "tiny": Settings(
        data="digits", model="small_cnn", width=4, images=200, epochs=1, precision="fp32", version="quick",
        tested=8, whole=12,
    ),
    "cpu": Settings(width=16, images=10_000, epochs=15, tested=200, whole=None),
    "gpu": Settings(),
}  # fmt: skip


def run(
    s: Settings, train_set: ImageSet, test_set: ImageSet, folder: Path,
    watch: study.Watch = study.unwatched, *, device: torch.device | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, and attack the averaged weights."""
    config = plain(asdict(s)) | {"train": train_set.describe(), "test": test_set.describe()}
    options = {"width": s.width} | ({} if s.data == "digits" else {"normalize": s.data})

    @cache
    def net(name: str) -> nn.Module:
        make, rate, _ = RECIPES[name]
        model = study.trained(
            s.model, train_set, make(record.THREAT), folder / name, seed=s.seed, options=options,
            epochs=s.epochs, batch_size=s.batch_size, learning_rate=rate, device=device, augment="crop_flip",
            optimization=fa.train.Optimization(schedule="one_cycle", ema=s.ema),
            execution=fa.train.Execution(precision=s.precision), progress=partial(watch, f"training {name}"),
        )  # fmt: skip
        fa.models.load_weights(model, folder / name / "ema.safetensors")
        return model

    with Keeper(folder) as keeper:
        known = study.known_in(keeper, config)
        lines = {name: known["nets"][name] for name in RECIPES if name in known.get("nets", {})}  # in order

        def train(name: str) -> None:
            net(name)
            lines.setdefault(name, {})["trained"] = sum(e.seconds for e in fa.train.reports(folder / name))

        def attack(name: str, count: int, key: str) -> None:
            progress = partial(watch, f"attacking {name}")
            lines[name][key] = record.judged(net(name), s, test_set, count, folder / name / key, progress)

        def compare(name: str) -> None:
            if "authors" not in lines[name]:
                lines[name]["authors"] = authors(net(name), test_set, s.tested, s.version)

        first, work = next(iter(RECIPES)), dict[str, Callable[[], None]]()
        for name in RECIPES:
            work[f"train {name}"] = partial(train, name)
            work[f"attack {name}"] = partial(attack, name, s.tested, "tested")
        if find_spec("autoattack"):
            work[f"attack {first} by the authors' package"] = partial(compare, first)
        if s.whole:
            work[f"attack {first} on {s.whole:,} images"] = partial(attack, first, s.whole, "whole")

        def write(left: Sequence[str]) -> dict[str, Any]:
            measured = {"nets": lines, study.SECONDS: known[study.SECONDS]} | ({"left": left} if left else {})
            return study.publish(keeper, "study training", config, report, **measured)

        return study.work_off(work, known.setdefault(study.SECONDS, {}), write)


def authors(model: nn.Module, test_set: ImageSet, count: int, version: str) -> dict[str, Any]:
    """Attack the first images with AutoAttack of Croce and Hein."""
    from autoattack import AutoAttack  # type: ignore[import-not-found]

    device = next(model.parameters()).device
    x, y, _ = next(fa.data.batches(test_set, count, range(min(count, len(test_set)))))
    began = time.perf_counter()
    radius = float(record.THREAT.radius)
    attack = AutoAttack(model, norm="Linf", eps=radius, version=version, device=device, verbose=False)
    x_adv = attack.run_standard_evaluation(x.to(device), y.to(device), bs=500)
    seconds = time.perf_counter() - began
    right = fa.freeze(model).verdict(x_adv).argmax(1).cpu() == y
    return {"images": count, "robust": right.double().mean().item(), "seconds": seconds}


def table(result: Mapping[str, Any]) -> list[list[str]]:
    cells = [["recipe", "trained in", "clean", "AutoAttack", "images", "took", "published"]]
    for name, net in result["measured"]["nets"].items():
        clean, robust, _ = RECIPES[name][2]
        published = f"{robust:g}%" if clean is None else f"{robust:g}% ({clean:g}% clean)"
        for key, who in (("tested", name), ("whole", name), ("authors", f"{name}, by the authors' package")):
            if done := net.get(key):
                shares = [percent(done[share]) if share in done else "-" for share in ("clean", "robust")]
                images, took = f"{done['images']:,}", f"{done['seconds']:,.1f} s"
                cells.append([who, f"{net['trained']:,.0f} s", *shares, images, took, published])
    return cells


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what the table does not say: what was trained and on what, sources, and what is left."""
    config, measured = result["config"], result["measured"]
    train = config["train"]
    lines = [
        f"{config['model']} of width {config['width']}, averaged weights, L∞ 8/255, seed {config['seed']}",
        f"{config['epochs']} epochs of {train['samples']:,} images of {train['name']}, {config['precision']}",
        "published: " + "; ".join(f"{name}: {source}" for name, (*_, (_, _, source)) in RECIPES.items()),
        *([train["note"]] if train["note"] else []),
    ]
    lines += [
        f"{name}: {net['tested']['verdict']}" for name, net in measured["nets"].items() if "tested" in net
    ]
    return [*lines, *(f"left: {work}" for work in measured.get("left", ()))]


def report(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    where = f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, {result['date']}"
    bullets = "\n".join(f"- {note}" for note in [*notes(result), where])
    return f"# Adversarial training, judged by AutoAttack\n\n{in_markdown(table(result))}\n\n{bullets}\n"


def do(asked: Namespace, watch: study.Watch) -> Iterator[Any]:
    if asked.budget:
        yield from record.do(asked, watch)
        return
    if (asked.seeds, asked.images) != (1, 10_000):
        parser().error("--seeds and --images: expected --budget with them, got none; give its seconds")
    settings = replace(SCALES[asked.scale or "tiny"], seed=asked.seed)
    load = partial(study.load_images, settings.data, data_dir=asked.data_dir)
    train_set, test_set = load("train", limit=settings.images), load("test")
    yield (result := run(settings, train_set, test_set, asked.run_dir, watch, device=c.device_of(asked)))
    c.print_table("Adversarial training", table(result), notes(result))
    files = {"all figures as JSON": study.RESULTS, "the report": study.REPORT}
    c.say_where({what: asked.run_dir / file for what, file in files.items()})


def parser() -> c.Parser:
    command = c.Parser("training", description=__doc__)
    command.add_argument("--scale", choices=list(SCALES), help="digits; part of CIFAR-10; ResNet-18 (tiny)")
    command.add_argument("--budget", type=c.count, help="train a record instead, for so many seconds")
    command.add_argument("--seeds", type=c.count, default=1, help="runs of a record (1)")
    command.add_argument("--images", type=c.count, default=10_000, help="of a record's test (10,000)")
    c.on_data(command)
    c.command(command, do, "training")
    return command


if __name__ == "__main__":
    sys.exit(c.main(parser()))
