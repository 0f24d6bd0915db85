"""What the commands of `fastadv abs` share: the model, batches with a progress bar, and what inference measures."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastadv.cli._output import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fastadv.models import ABS

ModelPath = Annotated[
    Path,
    typer.Option(
        "--model", "-m", help="What `abs train` wrote, or the folder of the authors' ABS_0.net .. ABS_9.net."
    ),
]
Binary = Annotated[
    bool, typer.Option("--binary", help="Binary ABS: pixels set to 0 and 1 at 0.5, losses weighed by class.")
]
PriorSamples = Annotated[
    int, typer.Option(min=2, help="Latents every search starts among; a trained model brings its own.")
]


def load_abs(
    path: Path, binary: bool, prior_samples: int, seed: int, device: "torch.device", **settings: Any
) -> "ABS":
    """The model in a file of `abs train`, or of the authors' weights in a folder; `settings` become its attributes."""
    from fastadv.errors import InputError
    from fastadv.models import ABS

    if path.is_dir():
        model = ABS.from_official(path, prior_samples=prior_samples, seed=seed)
    elif path.is_file():
        model = ABS.load(path)
    else:
        raise InputError(
            f"{path}: expected a model of `fastadv abs train` or a folder of ABS_0.net .. ABS_9.net, found neither; check the path"
        )
    model.binary = binary
    for name, value in settings.items():
        setattr(model, name, value)
    return model.to(device)


@dataclass(frozen=True)
class Batched:
    """A data set in batches, with a bar."""

    text: str
    size: int = 100

    def of(self, dataset: Any, device: "torch.device") -> "Iterator[tuple[Tensor, Tensor]]":
        """Yield (x, y) on the device."""
        from fastadv.data import batches

        done = 0
        with progress(self.text) as tick:
            tick(0, len(dataset))
            for x, y, _ in batches(dataset, self.size):
                yield x.to(device), y.to(device)
                done += len(x)
                tick(done, len(dataset))

    def each(
        self, dataset: Any, device: "torch.device", measured: "Callable[[Tensor, Tensor], Tensor]"
    ) -> "Tensor":
        """What `measured(x, y)` [B] gives for every sample, on the CPU."""
        import torch

        return torch.cat([measured(x, y).cpu() for x, y in self.of(dataset, device)])


@dataclass(frozen=True)
class Measured:
    """Figures of inference on a set, and what was kept of it."""

    summary: dict[str, float]
    kept: "dict[str, Tensor]" = field(default_factory=dict)


def measure(model: "ABS", dataset: Any, batched: Batched, keep: bool = False) -> Measured:
    """Accuracy, median confidence and time an image."""
    import torch

    from fastadv.models.abs.calibrate import graded

    started = time.perf_counter()
    model.bank()
    built, seconds = time.perf_counter() - started, 0.0
    rows: list[dict[str, Tensor]] = []
    for x, y in batched.of(dataset, model.weights[0].device):
        started = time.perf_counter()
        found = model.infer(x)
        seconds += time.perf_counter() - started
        row = {"loss": found.loss, "confidence": graded(-found.loss, model.scale, model.floor), "y": y}
        rows.append(
            {
                name: value.cpu()
                for name, value in (row | ({"latents": found.latents} if keep else {})).items()
            }
        )
    whole = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    right = whole["loss"].argmin(1) == whole["y"]
    summary = {
        "accuracy": float(right.float().mean()),
        "median_confidence": float(whole["confidence"].amax(1).median()),
        "milliseconds_an_image": 1000 * seconds / len(right),
        "bank_seconds": built,
    }
    return Measured(summary, whole if keep else {})
