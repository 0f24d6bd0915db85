"""`fastadv abs train`: an Analysis-by-Synthesis model from a data set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastadv.cli import _options as o
from fastadv.cli._abs_data import PRIOR_SAMPLES, Batched, measure, print_measured
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data, make_device
from fastadv.cli._output import progress, say, write_json
from fastadv.data import names
from fastadv.models import ABS
from fastadv.runs.card import card


def train(
    data: o.Data,
    run_dir: Annotated[
        Path,
        typer.Option(file_okay=False, help="Folder for checkpoint, report.jsonl and model.safetensors."),
    ],
    epochs: o.Epochs = 20,
    resume: o.Resume = False,
    latents: Annotated[int, typer.Option(min=1, help="Size of the latent space.")] = 8,
    width: Annotated[int, typer.Option(min=1, help="Channels of the widest decoder layers.")] = 16,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images in a batch, the same number of each class.")
    ] = 160,
    learning_rate: Annotated[float, typer.Option(help="Of Adam; it falls to 0 along a cosine.")] = 3e-3,
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
    o.check_run_dir(run_dir, resume)
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        raise typer.BadParameter(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    if test_samples is not None and data not in names():
        raise typer.BadParameter(f"--test-samples has no effect: {data} has no test split; leave it out.")
    place = make_device(device)

    def kept() -> str:
        if o.has_checkpoint(run_dir):
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
                variant = model.with_options(binary=binary)
                measured[name] = measure(variant, test_set, Batched(f"testing {name}")).summary
    if json:
        write_json(card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured))
        return
    print_measured(f"ABS on {dataset.name}, {epochs} epochs", measured, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")
