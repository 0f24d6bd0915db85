"""`fastadv abs`: train an Analysis-by-Synthesis model, infer, bound, attack and look at what it sees."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._abs_data import Batched, Binary, ModelPath, PriorSamples, load_abs, measure
from fastadv.cli._abs_show import distal, show
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import console, number, percent, progress, table, write_json
from fastadv.threat import THREATS

NOTHING_KEPT = "nothing was kept: run it again, with fewer --samples for a quicker look"

abs_app = typer.Typer(
    help="Analysis by Synthesis: one generative model a class (Schott et al. 2018).", no_args_is_help=True
)


class BoundNorm(StrEnum):
    """The norms there are bounds in."""

    L2 = "l2"
    LINF = "linf"


class Schedule(StrEnum):
    """How latent descent walks."""

    DESCENT = "descent"
    LINE_SEARCH = "line_search"


def train(
    data: o.Data,
    run_dir: Annotated[Path, typer.Option(help="Folder for checkpoint, report.jsonl and model.safetensors.")],
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --run-dir stopped.")
    ] = False,
    latents: Annotated[int, typer.Option(min=1, help="Size of the latent space.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Channels of the widest decoder layers.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch, as many of each class.")] = 160,
    learning_rate: Annotated[float, typer.Option(help="Adam's, falling to 0 as a cosine.")] = 3e-3,
    beta: Annotated[
        str | None,
        typer.Option(
            metavar="FROM,TO",
            help="Weight of the KL term, annealed over the first half; an image's values / 784 by default.",
        ),
    ] = None,
    augment: Annotated[bool, typer.Option(help="Warp three in ten images slightly.")] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16.")] = False,
    calibration: Annotated[
        int, typer.Option(min=0, help="Training images that set confidences and class factors.")
    ] = 1000,
    prior_samples: PriorSamples = 8000,
    test_samples: Annotated[
        int | None, typer.Option(min=1, help="Test on the first so many; all by default.")
    ] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    samples: o.Samples = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Train one VAE a class, all at once, and measure the model on the test split. Resumes bit for bit after any stop."""
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        raise typer.BadParameter(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    place = make_device(device)
    from fastadv._card import card
    from fastadv.data import names
    from fastadv.models import ABS

    def kept() -> str:
        if (run_dir / "checkpoint.safetensors").exists():
            return (
                f"the last finished epoch is kept in {run_dir}; run the same command with --resume to go on"
            )
        return "no epoch was done, so nothing was kept; run it again"

    with interruptible(kept):
        dataset = load_data(data, "train", data_dir, size, samples)
        with progress("training") as tick, o.usage():
            model = ABS.fit(
                dataset, epochs=epochs, run_dir=run_dir, resume=resume, latents=latents, width=width, batch_size=batch_size,
                learning_rate=learning_rate, beta=None if weights is None else (weights[0], weights[1]), augment=augment, seed=seed, device=place,
                training_precision="bf16" if bf16 else "fp32",
                calibration=calibration, progress=tick, prior_samples=prior_samples,
            )  # fmt: skip
        found: dict[str, Any] = {"training": model.card["measured"]}
        if data in names():
            test_set = load_data(data, "test", data_dir, size, test_samples)
            for name, binary in (("abs", False), ("binary_abs", True)):
                model.binary = binary
                found[name] = measure(model, test_set, Batched(f"testing {name}")).summary
    if json:
        write_json(card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **found))
        return
    _report(f"ABS on {dataset.name}, {epochs} epochs", found, dataset.note)
    console().print(f"model in {run_dir / 'model.safetensors'}", soft_wrap=True)


def infer(
    model: ModelPath,
    data: o.Data,
    binary: Binary = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop classes that can hardly win any more.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Search latents in bfloat16.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the latent descent.")] = 50,
    prior_samples: PriorSamples = 8000,
    samples: o.Samples = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Write loss, latents, confidence and y here, as safetensors.")
    ] = None,
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Classify a data set: accuracy, confidence and time an image."""
    place = make_device(device)
    from fastadv._files import save_tensors

    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(
            model,
            binary,
            prior_samples,
            seed,
            place,
            prune=prune,
            precision="bf16" if bf16 else "fp32",
            steps=steps,
        )
        done = measure(net, dataset, Batched("inferring", batch_size), keep=out is not None)
        if out is not None:
            save_tensors(out, done.kept)
    config = {
        "model": str(model),
        "binary": binary,
        "prune": prune,
        "bf16": bf16,
        "steps": steps,
        "seed": seed,
    }
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
        int, typer.Option(min=1, help="Prior samples a class to search the other classes' minima from.")
    ] = 4,
    prior_samples: PriorSamples = 8000,
    samples: o.Samples = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """The radius of every image within which the model keeps its decision: mean, median and quartiles."""
    place = make_device(device)
    import torch

    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(model, binary, prior_samples, seed, place)
        radius = Batched("bounding", batch_size).each(
            dataset, place, partial(net.lower_bound, norm=norm.value, starts=starts, tight=tight)
        )
    low, median, high = (float(value) for value in radius.quantile(torch.tensor([0.25, 0.5, 0.75])))
    error = float(radius.std()) / len(radius) ** 0.5 if len(radius) > 1 else 0.0
    found = {
        "mean": float(radius.mean()), "standard_error": error, "lower_quartile": low, "median": median, "upper_quartile": high,
        "above_zero": float((radius > 0).float().mean()),
    }  # fmt: skip
    config = {
        "model": str(model),
        "norm": norm.value,
        "binary": binary,
        "tight": tight,
        "starts": starts,
        "seed": seed,
    }
    _tell("bound", f"{THREATS[norm.value].symbol} lower bound on", dataset, config, found, json)


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
    prior_samples: PriorSamples = 8000,
    samples: o.Samples = 200,
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    data_dir: o.DataDir = None,
    size: o.Size = None,
    batch_size: o.BatchSize = 100,
    seed: o.Seed = 0,
    device: o.Device = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Latent descent: the L2 distance at which each decision is broken. Clean errors count as 0, failures as infinite."""
    place = make_device(device)
    from fastadv.attacks import latent_descent

    options: dict[str, Any] = {"schedule": schedule.value} | (
        {"steps": 51} if schedule is Schedule.LINE_SEARCH else {}
    )
    with interruptible(NOTHING_KEPT):
        dataset = load_data(data, split, data_dir, size, samples)
        net = load_abs(model, binary, prior_samples, seed, place)
        distance = Batched("latent descent", batch_size).each(
            dataset, place, lambda x, y: latent_descent(net, x, y, **options).distance
        )
    found = {
        "median_distance": float(distance.sort().values[len(distance) // 2]),
        "accuracy": float((distance > threshold).float().mean()),
        "clean_accuracy": float((distance > 0).float().mean()),
        "broken": float((distance.isfinite() & (distance > 0)).float().mean()),
    }
    config = {"model": str(model), "binary": binary, "threshold": threshold, "seed": seed, **options}
    _tell("attack", "latent descent on", dataset, config, found, json)


def _tell(
    command: str, what: str, dataset: Any, config: dict[str, Any], found: dict[str, float], json: bool
) -> None:
    """The card of what was found, or a table of it."""
    from fastadv._card import card

    if json:
        write_json(card(f"abs {command}", {**config, "data": dataset.describe()}, **found))
        return
    name = "Binary ABS" if config["binary"] else "ABS"
    _report(f"{name}, {what} {dataset.name}, {len(dataset):,} images", {"measured": found}, dataset.note)


def _report(title: str, found: dict[str, Any], caption: str) -> None:
    made = table(title, "", "measured", "value", caption=caption or None)
    for part, values in found.items():
        for name, value in values.items():
            share = name.endswith("accuracy") or name in ("above_zero", "broken")
            made.add_row(part, name.replace("_", " "), percent(value) if share else number(value))
    console().print(made)


for _command, _example in (
    (train, "fastadv abs train --data digits --run-dir runs/abs"),
    (infer, "fastadv abs infer -m runs/abs/model.safetensors --data digits --binary"),
    (bound, "fastadv abs bound -m runs/abs/model.safetensors --data digits --samples 100"),
    (attack, "fastadv abs attack -m runs/abs/model.safetensors --data digits --samples 50"),
    (show, "fastadv abs show -m runs/abs/model.safetensors --data digits --index 3 --out abs.png"),
    (distal, "fastadv abs distal -m runs/abs/model.safetensors --classes 0,1 --out distal.png"),
):
    abs_app.command(epilog=f"Example: {_example}", no_args_is_help=True)(_command)
