"""`fastadv abs`: train an Analysis-by-Synthesis model, classify with it, bound its decisions, attack them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import typer

from fastadv.attacks import latent_descent
from fastadv.cli import _options as o
from fastadv.cli._abs_data import PRIOR_SAMPLES, Synthesis, batched, measure, print_measured
from fastadv.cli._abs_show import distal, show
from fastadv.cli._interrupt import interruptible
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results
from fastadv.cli._output import progress, say
from fastadv.cli._panels import add
from fastadv.cli._shared import Images, Machine, RunFolder, TrainImages, load_data, make_device
from fastadv.data import is_named
from fastadv.evaluation import evaluate
from fastadv.models import ABS
from fastadv.models.abs.options import Precision
from fastadv.runs.card import card
from fastadv.runs.files import save_tensors
from fastadv.text import percent

LINE_SEARCH_STEPS = 51  # as in the authors' code

abs_app = typer.Typer(
    help="Analysis by Synthesis: one generative model for each class (Schott et al. 2018).",
    no_args_is_help=True,
)


class NeededFolder(RunFolder):
    """The folder of a run that always has one."""

    run_dir: Path = o.folder(..., "Folder for checkpoint, report.jsonl and model.safetensors.")


def train(
    images: TrainImages,
    folder: NeededFolder,
    machine: Machine,
    epochs: o.Epochs = 20,
    latents: int = o.count(8, "Size of the latent space."),
    width: int = o.count(16, "Channels of the widest decoder layers."),
    batch_size: int = o.count(160, "Images in a batch, the same number of each class."),
    learning_rate: float = o.option(3e-3, "Of Adam; it falls to 0 along a cosine."),
    beta: str | None = o.option(
        None,
        "Weight of the KL term, annealed over the first half of the epochs; by default an image's "
        "values / 784 throughout.",
        metavar="FROM,TO",
    ),
    augment: bool = o.option(True, "Warp three in ten images slightly."),
    precision: Precision = o.option("fp32", "Precision of training."),
    calibration: int = o.option(1000, "Training images that set confidences and class factors.", min=0),
    prior_samples: int = o.option(PRIOR_SAMPLES, "Latents of the prior among which a search starts.", min=2),
    test_samples: int | None = o.count(None, "Test on the first N samples; by default on all."),
) -> Iterator[Any]:
    """Train one VAE for each class, all at once, and measure the model on the test split.

    The same command with --resume continues bit for bit after any stop.
    """
    folder.check()
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        o.refuse(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    if test_samples is not None and not is_named(images.data):
        o.refuse(f"--test-samples has no effect: {images.data} has no test split; leave it out.")
    place, run_dir = machine.place(), folder.run_dir
    with interruptible(folder.kept):
        dataset = images.load()
        with progress("training") as tick:
            model = ABS.fit(
                dataset, epochs=epochs, run_dir=run_dir, resume=folder.resume, latents=latents, width=width,
                batch_size=batch_size, learning_rate=learning_rate, augment=augment, seed=machine.seed,
                beta=None if weights is None else (weights[0], weights[1]), device=place,
                training_precision=precision, calibration=calibration, progress=tick,
                prior_samples=prior_samples,
            )  # fmt: skip
        measured: dict[str, Any] = {"training": model.card["measured"]}
        if is_named(images.data):
            test_set = load_data(images.data, None, images.data_dir, test_samples)
            for name, binary in (("abs", False), ("binary_abs", True)):
                variant = model.with_options(binary=binary)
                measured[name] = measure(variant, test_set, f"testing {name}")[0]
    yield card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured)
    print_measured(f"ABS on {dataset.name}, {epochs} epochs", measured, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")


class FewImages(Images):
    """The first images, unless all are asked for."""

    samples: o.Samples = 200


def infer(
    synthesis: Synthesis,
    images: Images,
    prune: bool = o.option(False, "Skip the descent of classes that can hardly win.", "--prune"),
    precision: Precision = o.option("fp32", "Precision of the descent."),
    steps: int = o.count(50, "Steps of the latent descent."),
    out: Path | None = o.written(None, "Write loss, latents, confidence and y here (safetensors)."),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Classify a data set: accuracy, confidence, and time for each image."""
    place = make_device(synthesis.device)
    options: dict[str, Any] = {"prune": prune, "precision": precision, "steps": steps}
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place, **options)
        measured, kept = measure(net, dataset, "inferring", batch_size)
        if out is not None:
            save_tensors(out, kept)
    config = {**synthesis.config, **options, "data": dataset.describe()}
    yield card("abs infer", config, **measured)
    title = f"{synthesis.name}, on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)


def bound(
    synthesis: Synthesis,
    images: Images,
    norm: Literal["l2", "linf", "l0"] = o.option("l2", "Norm of the radius; l0 with --binary."),
    tight: bool = o.option(
        False, "Keep the prior's cost of the other classes, which the paper's bound drops.", "--tight"
    ),
    starts: int = o.count(4, "Prior samples from which each class's minimum is searched."),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Bound the radius of every image within which the model keeps its decision, and sum the radii up."""
    place = make_device(synthesis.device)
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place)
        found = [
            net.lower_bound(x, y, norm=norm, starts=starts, tight=tight).cpu()
            for x, y in batched("bounding", dataset, place, batch_size)
        ]
    radius = torch.cat(found)
    low, median, high = (float(value) for value in radius.quantile(torch.tensor([0.25, 0.5, 0.75])))
    measured = {
        "mean": float(radius.mean()),
        "standard_error": float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0,
        "lower_quartile": low,
        "median": median,
        "upper_quartile": high,
        "above_zero": float((radius > 0).double().mean()),
    }
    config = {**synthesis.config, "norm": norm, "tight": tight, "starts": starts, "data": dataset.describe()}
    yield card("abs bound", config, **measured)
    title = f"{synthesis.name}, {o.symbol(norm)} lower bound on {dataset.name}, {len(dataset):,} images"
    print_measured(title, {"": measured}, dataset.note)


def attack(
    synthesis: Synthesis,
    images: FewImages,
    schedule: Literal["descent", "line_search"] = o.option(
        "descent", "The paper's descent, or the line search of the authors' code."
    ),
    threshold: float = o.option(1.5, "Also the accuracy when this L2 distance is allowed.", min=0.0),
    batch_size: o.BatchSize = 100,
) -> Iterator[Any]:
    """Run latent descent, which looks for the nearest L2 point that changes each decision.

    In the median distance, images that are misclassified count 0, and decisions that hold count as infinite.
    """
    place = make_device(synthesis.device)
    options: dict[str, Any] = {"schedule": schedule}
    if schedule == "line_search":
        options["steps"] = LINE_SEARCH_STEPS
    label = "latent descent"
    with interruptible(NOTHING_KEPT):
        dataset = images.load()
        net = synthesis.load(place)
        with progress(label) as tick:
            run = Watched(partial(latent_descent, **options), label, [0], len(dataset), tick)
            table = evaluate(net, dataset, {label: run}, batch_size=batch_size, indicators=False)
    row = table[label]
    allowed = float((row.distance > threshold).double().mean())
    measured = {
        "median_distance": row.median_distance,
        "accuracy": allowed,
        "broken": float(row.broken.double().mean()),
        **table.to_dict(),
    }
    config = {**synthesis.config, "threshold": threshold, **options, "data": dataset.describe()}
    yield card("abs attack", config, **measured)
    print_results(table, synthesis.name, dataset)
    say(f"accuracy where L2 {threshold:g} is allowed: {percent(allowed)}")


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
    (distal, "fastadv abs distal -m runs/abs/model.safetensors --classes 0,1 --out distal.png"),
):
    add(abs_app, _command, _example)
