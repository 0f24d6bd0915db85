"""The groups of options that commands share, and what is loaded from them."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fastadv import data, models
from fastadv.cli import _options as o
from fastadv.cli._load import load_data, load_model, make_device
from fastadv.cli._panels import Panel
from fastadv.engine import Frozen, freeze
from fastadv.engine.precision import Precision
from fastadv.threat import THREATS


class Source(Panel, title="Images"):
    """Where images come from: `part` is what a split data set gives unless --split says otherwise."""

    part: ClassVar[o.Split] = "test"

    data: str = o.option(..., f"{', '.join(data.names())}, or the folder of a constructed or exported set.")
    size: o.Size = None
    data_dir: o.DataDir = None

    def load(self) -> Any:
        """Load the data set, or its first `samples`."""
        split, samples = getattr(self, "split", None), getattr(self, "samples", None)
        return load_data(self.data, split, self.data_dir, self.size, samples, default=self.part)


class TrainImages(Source):
    """Images to train on."""

    part = "train"

    samples: o.Samples = None


class Images(Source):
    """Images to measure on."""

    samples: o.Samples = None
    split: o.SplitOption = None


class Network(Panel, title="Model"):
    """A model by name, and its weights."""

    model: str = o.option(
        ..., f"{', '.join(models.names())}, or your own as package.module:function.", "--model", "-m"
    )
    option: o.Arguments = None
    weights: o.Weights = None

    @property
    def config(self) -> dict[str, Any]:
        """What a card says of the model."""
        return {"model": self.model, "options": self.option, "weights": self.weights and str(self.weights)}

    def load(self, dataset: Any, device: torch.device, seed: int, *, fresh: bool = False) -> nn.Module:
        """Load the model, for images and classes of `dataset`."""
        return load_model(self.model, self.option, self.weights, dataset, device, seed, fresh=fresh)

    def substitute(self, text: str, dataset: Any, device: torch.device, seed: int) -> nn.Module:
        """Load what `text` names.

        FILE: other weights of the same model; MODEL@FILE: the weights of another; or package.module:function.
        """
        other, at, file = text.partition("@")
        if at or ":" in text or text in models.names():
            return load_model(other, None, Path(file) if at else None, dataset, device, seed)
        return load_model(self.model, self.option, Path(text), dataset, device, seed)


class RunFolder(Panel, title="Results"):
    """The folder of a training run."""

    run_dir: Path | None = o.folder(None, "Folder for checkpoint, reports and model.safetensors.")
    resume: o.Resume = False

    def check(self) -> None:
        """Refuse a folder that cannot be begun, or gone on with."""
        o.check_run_dir(self.run_dir, self.resume)

    def kept(self, begun: bool = False) -> str:
        """Return the message of a stopped command. begun: it has finished an epoch."""
        if self.run_dir is None:
            return "nothing was kept; with --run-dir a run can be resumed"
        if not begun and not o.has_checkpoint(self.run_dir):
            return "no epoch was done, so nothing was kept; run it again"
        return (
            f"the last finished epoch is kept in {self.run_dir}; run the same command with --resume to go on"
        )


class Machine(Panel, title="Computation"):
    """Where a command computes."""

    seed: o.Seed = 0
    device: o.Device = None

    def place(self) -> torch.device:
        """Find the device; by default the GPU where there is one."""
        return make_device(self.device)


class Search(Machine):
    """How a search by gradients is computed."""

    batch_size: Any = o.option(
        256, "Samples worked on at once; auto: as many as are fastest and memory holds.",
        parser=o.parse_batch_size, metavar="N|auto",
    )  # fmt: skip
    precision: Precision | None = o.option(
        None, "Of the search: by default fp32, the model's own; what is reported is proved in that."
    )
    bf16: o.Bf16 = False

    def __post_init__(self) -> None:
        o.one_precision(self.bf16, self.precision)

    @property
    def searched(self) -> str:
        """The precision of the search."""
        return o.one_precision(self.bf16, self.precision)

    def twin(self, net: nn.Module) -> nn.Module | Frozen:
        """Return the model as attacks take it: by itself, or with a search twin in another precision."""
        with o.usage():
            return net if self.searched == "fp32" else freeze(net, self.searched)  # type: ignore[arg-type]


class Budget(Panel):
    """A threat, and the steps in it."""

    norm: str | None = o.option(None, "Norm of the budget.", parser=o.parse_norm, metavar="|".join(THREATS))
    radius: float | None = o.number(None, "The budget, in input units: 0.3, 8/255.")
    step_size: float | None = o.number(None, "Length of a step, in input units.")
