"""`fastadv abs train`: an Analysis-by-Synthesis model from a data set."""

from pathlib import Path
from typing import Any

from fastadv.cli import _options as o
from fastadv.cli._abs_data import PRIOR_SAMPLES, measure, print_measured
from fastadv.cli._interrupt import interruptible
from fastadv.cli._load import load_data
from fastadv.cli._output import progress, say, write_json
from fastadv.cli._shared import Machine, RunFolder, TrainImages
from fastadv.data import names
from fastadv.models import ABS
from fastadv.runs.card import card


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
    bf16: bool = o.option(False, "Train in bfloat16.", "--bf16"),
    calibration: int = o.option(1000, "Training images that set confidences and class factors.", min=0),
    prior_samples: int = o.option(PRIOR_SAMPLES, "Latents of the prior among which a search starts.", min=2),
    test_samples: int | None = o.count(None, "Test on the first N samples; by default on all."),
    json: o.Json = False,
) -> None:
    """Train one VAE for each class, all at once, and measure the model on the test split.

    The same command with --resume goes on bit for bit after any stop.
    """
    folder.check()
    weights = None if beta is None else o.parse_numbers(beta)
    if weights is not None and len(weights) != 2:
        o.refuse(f"--beta: expected FROM,TO such as 10,1, got {beta!r}.")
    if test_samples is not None and images.data not in names():
        o.refuse(f"--test-samples has no effect: {images.data} has no test split; leave it out.")
    place, run_dir = machine.place(), folder.run_dir
    with interruptible(folder.kept):
        dataset = images.load()
        with progress("training") as tick, o.usage():
            model = ABS.fit(
                dataset, epochs=epochs, run_dir=run_dir, resume=folder.resume, latents=latents, width=width,
                batch_size=batch_size, learning_rate=learning_rate, augment=augment, seed=machine.seed,
                beta=None if weights is None else (weights[0], weights[1]), device=place,
                training_precision="bf16" if bf16 else "fp32", calibration=calibration, progress=tick,
                prior_samples=prior_samples,
            )  # fmt: skip
        measured: dict[str, Any] = {"training": model.card["measured"]}
        if images.data in names():
            test_set = load_data(images.data, None, images.data_dir, images.size, test_samples)
            for name, binary in (("abs", False), ("binary_abs", True)):
                variant = model.with_options(binary=binary)
                measured[name] = measure(variant, test_set, f"testing {name}")[0]
    if json:
        write_json(card("abs", {**model.card["config"], "run_dir": str(run_dir)}, **measured))
        return
    print_measured(f"ABS on {dataset.name}, {epochs} epochs", measured, dataset.note)
    say(f"model in {run_dir / 'model.safetensors'}")
