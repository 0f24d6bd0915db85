"""`fastadv abs`: train an Analysis-by-Synthesis model, classify with it, bound, attack and draw it."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fastadv._card import card
from fastadv._files import save_tensors
from fastadv.attacks import latent_descent
from fastadv.cli import _options as o
from fastadv.cli._abs_data import (
    PRIOR_SAMPLES,
    Batched,
    Binary,
    ModelPath,
    PriorSamples,
    PriorSeed,
    load_abs,
    measure,
    with_options,
)
from fastadv.cli._abs_show import distal, show
from fastadv.cli._debug import with_debug
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._measure import NOTHING_KEPT, Watched, print_results
from fastadv.cli._output import print_table, progress, say, write_json
from fastadv.data import names
from fastadv.evaluation import evaluate
from fastadv.evaluation._text import number, percent
from fastadv.models import ABS

LINE_SEARCH_STEPS = 51  # as in the authors' code

abs_app = typer.Typer(
    help="Analysis by Synthesis: one generative model for each class (Schott et al. 2018).",
    no_args_is_help=True,
)


class BoundNorm(StrEnum):
    """The norms in which there are bounds."""

    L2 = "l2"
    LINF = "linf"


class Schedule(StrEnum):
    """How latent descent moves."""

    DESCENT = "descent"
    LINE_SEARCH = "line_search"


def train(
    data: o.Data,
    run_dir: Annotated[Path, typer.Option(help="Folder for checkpoint, report.jsonl and model.safetensors.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 20,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --run-dir stopped.")
    ] = False,
    latents: Annotated[int, typer.Option(min=1, help="Size of the latent space.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Channels of the widest decoder layers.")] = 16,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images in a batch, the same number of each class.")
    ] = 160,
    learning_rate: Annotated[float, typer.Option(help="Adam's; it falls to 0 as a cosine.")] = 3e-3,
    beta: Annotated[
        str | None,
        typer.Option(
            metavar="FROM,TO",
            help="Weight of the KL term, annealed over the first half of the epochs; by default an image's "
            "values / 784 throughout.",
        ),
    ] = None,
    augment: Annotated[bool, typer.Option(help="Warp three in ten images slightly.")] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16.")] = False,
    calibration: Annotated[
        int, typer.Option(min=0, help="Training images that set confidences and class factors.")
    ] = 1000,
    prior_samples: Annotated[
        int, typer.Option(min=2, help="Latents of the prior among which a search starts.")
    ] = PRIOR_SAMPLES,
    test_samples: Annotated[
        int | None, typer.Option(min=1, help="Test on the first N samples; by default on all.")
    ] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Train one VAE for each class, all at once, and measure the model on the test split.

    The same command with --resume goes on bit for bit after any stop.
    """
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        raise typer.BadParameter(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    if test_samples is not None and data not in names():
        raise typer.BadParameter(f"--test-samples has no effect: {data} has no test split; leave it out.")
    place = make_device(device)

    def kept() -> str:
        if (run_dir / "checkpoint.safetensors").exists():
            return (
                f"the last finished epoch is kept in {run_dir}; run the same command with --resume to go on"
            )
        return "no epoch was done, so nothing was kept; run it again"

    with interruptible(kept):
        dataset = load_data(data, None, data_dir, size, samples, default=o.Split.TRAIN)
        with progress("training") as tick, o.usage():
            model = ABS.fit(
                dataset,
                epochs=epochs,
                run_dir=run_dir,
                resume=resume,
                latents=latents,
                width=width,
                batch_size=batch_size,
                learning_rate=learning_rate,
                beta=None if weights is None else (weights[0], weights[1]),
                augment=augment,
                seed=seed,
                device=place,
                training_precision="bf16" if bf16 else "fp32",
                calibration=calibration,
                progress=tick,
                prior_samples=prior_samples,
            )
        measured: dict[str, Any] = {"training": model.card["measured"]}
        if data in names():
            test_set = load_data(data, None, data_dir, size, test_samples)
            for name, binary in (("abs", False), ("binary_abs", True)):
                variant = with_options(model, binary=binary)
                measured[name] = measure(variant, test_set, Batched(f"testing {name}")).summary
    if json:
        write_json(card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured))
        return
    _report(f"ABS on {dataset.name}, {epochs} epochs", measured, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")


def infer(
    model: ModelPath,
    data: o.Data,
    binary: Binary = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Skip the descent of classes that can hardly win.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Descend in bfloat16.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the latent descent.")] = 50,
    prior_samples: PriorSamples = None,
    samples: o.Samples = None,
    split: o.SplitOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Write loss, latents, confidence and y here, as safetensors.")
    ] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: PriorSeed = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Classify a data set: accuracy, confidence and time an image."""
    place = make_device(device)
    options: dict[str, Any] = {
        "binary": binary,
        "prune": prune,
        "precision": "bf16" if bf16 else "fp32",
        "steps": steps,
    }
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(model, prior_samples, seed, place, **options)
        done = measure(net, dataset, Batched("inferring", batch_size), keep=out is not None)
        if out is not None:
            save_tensors(out, done.kept)
    config = {"model": str(model), "seed": seed, **options}
    _tell("infer", "on", dataset, config, done.summary, json)


def bound(
    model: ModelPath,
    data: o.Data,
    norm: Annotated[BoundNorm, typer.Option(help="Norm of the radius.")] = BoundNorm.L2,
    binary: Binary = False,
    tight: Annotated[
        bool,
        typer.Option(
            "--tight", help="Keep the prior's cost of the other classes, which the paper's bound drops."
        ),
    ] = False,
    starts: Annotated[
        int, typer.Option(min=1, help="Prior samples from which each class's minimum is searched.")
    ] = 4,
    prior_samples: PriorSamples = None,
    samples: o.Samples = None,
    split: o.SplitOption = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: PriorSeed = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """The radius of every image within which the model keeps its decision: mean, median and quartiles."""
    place = make_device(device)
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(model, prior_samples, seed, place, binary=binary)
        search = partial(net.lower_bound, norm=norm.value, starts=starts, tight=tight)
        with o.usage():
            radius = Batched("bounding", batch_size).each(dataset, place, search)
    low, median, high = (float(value) for value in radius.quantile(torch.tensor([0.25, 0.5, 0.75])))
    measured = {
        "mean": float(radius.mean()),
        "standard_error": float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0,
        "lower_quartile": low,
        "median": median,
        "upper_quartile": high,
        "above_zero": float((radius > 0).double().mean()),
    }
    config = {
        "model": str(model),
        "norm": norm.value,
        "binary": binary,
        "tight": tight,
        "starts": starts,
        "seed": seed,
    }
    _tell("bound", f"{o.symbol(norm.value)} lower bound on", dataset, config, measured, json)


def attack(
    model: ModelPath,
    data: o.Data,
    binary: Binary = False,
    schedule: Annotated[
        Schedule, typer.Option(help="The paper's descent, or the line search of the authors' code.")
    ] = Schedule.DESCENT,
    threshold: Annotated[
        float, typer.Option(help="Also the accuracy when this L2 distance is allowed.")
    ] = 1.5,
    prior_samples: PriorSamples = None,
    samples: o.Samples = 200,
    split: o.SplitOption = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: PriorSeed = None,
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """Latent descent: the L2 distance at which each decision is broken.

    In the median clean errors count as 0 and decisions that hold as infinite.
    """
    place = make_device(device)
    options: dict[str, Any] = {"schedule": schedule.value}
    if schedule is Schedule.LINE_SEARCH:
        options["steps"] = LINE_SEARCH_STEPS
    label = "latent descent"
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(model, prior_samples, seed, place, binary=binary)
        with progress(label) as tick, o.usage():
            run = Watched(partial(latent_descent, **options), [0], len(dataset), tick)
            table = evaluate(net, dataset, {label: run}, batch_size=batch_size)
    row = table[label]
    allowed = float((row.distance > threshold).double().mean())
    if json:
        config = {"model": str(model), "binary": binary, "threshold": threshold, "seed": seed, **options}
        measured = {
            "median_distance": row.median_distance,
            "accuracy": allowed,
            "broken": float(row.broken.double().mean()),
            **table.to_dict(),
        }
        write_json(card("abs attack", {**config, "data": dataset.describe()}, **measured))
        return
    print_results(table, "Binary ABS" if binary else "ABS", dataset)
    say(f"accuracy where L2 {threshold:g} is allowed: {percent(allowed)}")


def _tell(
    command: str, what: str, dataset: Any, config: dict[str, Any], measured: dict[str, float], json: bool
) -> None:
    """The card of what was measured, or a table of it."""
    if json:
        write_json(card(f"abs {command}", {**config, "data": dataset.describe()}, **measured))
        return
    name = "Binary ABS" if config["binary"] else "ABS"
    _report(f"{name}, {what} {dataset.name}, {len(dataset):,} images", {"": measured}, dataset.note)


def _report(title: str, measured: dict[str, dict[str, float]], caption: str) -> None:
    cells = [["", "measured", "value"]]
    for part, values in measured.items():
        for name, value in values.items():
            share = name.endswith("accuracy") or name == "above_zero"
            cells.append([part, name.replace("_", " "), percent(value) if share else number(value)])
    if not any(line[0] for line in cells):
        cells = [line[1:] for line in cells]
    print_table(title, cells, [caption] if caption else [])


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
    (distal, "fastadv abs distal -m runs/abs/model.safetensors --classes 0,1 --out distal.png"),
):
    abs_app.command(epilog=f"Example: {_example}", no_args_is_help=True)(with_debug(_command))
