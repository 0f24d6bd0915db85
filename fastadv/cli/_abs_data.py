"""What the commands of `fastadv abs` share: the model, batches with a progress bar, measured inference."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import SEEDS
from fastadv.cli import _options as o
from fastadv.cli._output import print_table, progress
from fastadv.cli._panels import Panel
from fastadv.data import batches
from fastadv.errors import InputError
from fastadv.models import ABS
from fastadv.text import number, percent

PRIOR_SAMPLES = 8000


class Synthesis(Panel, title="Model"):
    """An ABS, and where it computes."""

    model: Path = o.option(
        ..., "What `abs train` wrote, or the folder of the authors' ABS_0.net .. ABS_9.net.", "--model", "-m"
    )
    binary: bool = o.option(
        False, "Binary ABS: pixels set to 0 and 1 at 0.5, losses weighted by class.", "--binary"
    )
    seed: int | None = o.option(
        None,
        "Draws the prior samples for the authors' weights. A trained model has its own.",
        min=0,
        max=SEEDS - 1,
    )
    device: o.Device = None

    @property
    def name(self) -> str:
        """The name of the model in titles."""
        return "Binary ABS" if self.binary else "ABS"

    @property
    def config(self) -> dict[str, Any]:
        """What a card says of the model."""
        return {"model": str(self.model), "binary": self.binary, "seed": self.seed}

    def load(self, device: torch.device, *, seed_used: bool = False, **options: Any) -> ABS:
        """Load the model, with these options, from a file of `abs train` or the authors' folder.

        seed_used: the command also uses the seed for something else.
        """
        path, seed = self.model, self.seed
        if path.is_dir():
            model = ABS.from_official(path, prior_samples=PRIOR_SAMPLES, seed=seed or 0)
        elif path.is_file():
            why = f"has no effect on {path}, which has its own prior; leave it out."
            o.refuse_given(why, seed=None if seed_used else seed)
            model = ABS.load(path)
        else:
            raise InputError(
                f"{path}: expected a model of `fastadv abs train` or a folder of ABS_0.net .. ABS_9.net, "
                "found neither; check the path"
            )
        return model.with_options(binary=self.binary, **options).to(device)


def batched(
    text: str, dataset: Any, device: torch.device, size: int = 100
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the (x, y) of a data set on the device, with a progress bar."""
    done = 0
    with progress(text) as tick:
        tick(0, len(dataset))
        for x, y, _ in batches(dataset, size):
            yield x.to(device), y.to(device)
            done += len(x)
            tick(done, len(dataset))


def measure(
    model: ABS, dataset: Any, text: str, size: int = 100
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return accuracy, median confidence and time an image; and loss, confidence, latents and y of each."""
    started = time.perf_counter()
    model.bank().flatten()[:1].cpu()  # waits for the device
    built, seconds = time.perf_counter() - started, 0.0
    rows: list[dict[str, Tensor]] = []
    for x, y in batched(text, dataset, model.weights[0].device, size):
        started = time.perf_counter()
        inferred = model.infer(x)
        row = {"loss": inferred.loss.cpu(), "confidence": inferred.confidence, "y": y}
        seconds += time.perf_counter() - started
        row["latents"] = inferred.latents
        rows.append({name: value.cpu() for name, value in row.items()})
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    right = whole["loss"].argmin(1) == whole["y"]
    summary = {
        "accuracy": float(right.double().mean()),
        "median_confidence": float(whole["confidence"].amax(1).median()),
        "milliseconds_an_image": 1000 * seconds / len(right),
        "bank_seconds": built,
    }
    return summary, whole


def print_measured(title: str, measured: dict[str, dict[str, float]], caption: str) -> None:
    """Print a table of what was measured, grouped by the part of the work it belongs to."""
    cells = [["", "measured", "value"]]
    for part, values in measured.items():
        for name, value in values.items():
            share = name.endswith("accuracy") or name == "above_zero"
            text = percent(value) if share else str(value) if isinstance(value, int) else number(value)
            cells.append([part, name.replace("_", " "), text])
    if not any(line[0] for line in cells):
        cells = [line[1:] for line in cells]
    print_table(title, cells, [caption] if caption else [])
