"""The groups of options that commands share, and how devices, data sets and models are found by them."""

from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar

import torch
import typer
from torch import nn

from fastadv import data as sets
from fastadv import models
from fastadv.cli import _options as o
from fastadv.cli._models import ZOO, check_name, load_entry, parse_model
from fastadv.cli._output import note
from fastadv.cli._panels import Panel
from fastadv.data._load import is_set
from fastadv.data.sampling import first_samples
from fastadv.engine import Plain, Prepared, freeze
from fastadv.engine.precision import Precision
from fastadv.models.registry import SOURCES, factory
from fastadv.threat import THREATS

KNOWN = (*models.names(), *SOURCES)  # where weights are untrained unless they are given


class Source(Panel, title="Images"):
    """Where images come from: `part` is what a split data set gives unless --split says otherwise."""

    part: ClassVar[o.Split] = "test"

    data: str = o.option(
        ...,
        f"{', '.join(sets.names())}, or the folder of a constructed set. Options follow a colon: "
        "imagefolder:size=32, imagenet:preprocessing=Crop288.",
        "--data", "-d",
    )  # fmt: skip
    data_dir: o.DataDir = None
    size: int | None = o.count(None, "Resize images to N x N; of files, the shorter side, then crop.")

    def load(self) -> Any:
        split, samples = getattr(self, "split", None), getattr(self, "samples", None)
        return load_data(self.data, split, self.data_dir, samples, default=self.part, size=self.size)


class TrainImages(Source):
    part = "train"

    samples: o.Samples = None


class Images(Source):
    samples: o.Samples = None
    split: o.SplitOption = None


class Network(Panel, title="Model"):
    model: Any = o.option(
        ...,
        f"{', '.join(models.names())}, timm:NAME, torchvision:NAME, {ZOO}NAME for an entry of RobustBench's "
        "zoo, or your own as package.module:function, which returns a model of images in [0, 1].",
        "--model", "-m", parser=parse_model, metavar="NAME",
    )  # fmt: skip
    option: list[str] | None = o.option(
        None, "An argument of the model: width=16, normalize=cifar10, pretrained=true. May be repeated.",
        "--option", "-o", metavar="KEY=VALUE",
    )  # fmt: skip
    weights: Path | None = o.option(
        None, "Weights: a safetensors or a torch file; of rb:NAME also a folder of RobustBench's files.",
        "--weights", "-w",
    )  # fmt: skip

    @property
    def config(self) -> dict[str, Any]:
        return {"model": self.model, "options": self.option, "weights": self.weights and str(self.weights)}

    def load(self, dataset: Any, device: torch.device, seed: int, *, fresh: bool = False) -> nn.Module:
        """Load the model for `dataset`, in eval mode on the device. fresh: untrained is wanted."""
        name, own = self.model, o.pairs(self.option or [], "--option")
        offered = {"shape": tuple(dataset.shape), "classes": dataset.num_classes, "seed": seed}
        if name.startswith(ZOO):
            return load_entry(name, own, self.weights, dataset).to(device)
        check_name(name)
        if ":" not in name and own.keys() & {"shape", "classes"}:
            o.refuse("--option: shape and classes follow from --data; leave them out.")
        model = models.create(name, **(_accepted(name, offered) | own))
        if self.weights is not None:
            models.load_weights(model, self.weights)
        elif not (fresh or own.keys() & {"pretrained", "weights"}) and name.partition(":")[0] in KNOWN:
            note(f"{name} has its first, untrained weights; give trained ones with --weights")
        return model.to(device).eval()


class RunFolder(Panel, title="Results"):
    run_dir: Path | None = o.folder(None, "Folder for checkpoint, reports and model.safetensors.")
    resume: o.Resume = False

    def check(self) -> None:
        o.check_run_dir(self.run_dir, self.resume)

    def kept(self, begun: bool = False) -> str:
        """Return the message of a stopped command. begun: it has finished an epoch."""
        if self.run_dir is None:
            return "nothing was kept; with --run-dir a run can be resumed"
        if not begun and not (self.run_dir / o.CHECKPOINT).exists():
            return "no epoch was done, so nothing was kept; run it again"
        return f"the last finished epoch is kept in {self.run_dir}; the same command with --resume continues"


class Machine(Panel, title="Computation"):
    seed: o.Seed = 0
    device: o.Device = None

    def place(self) -> torch.device:
        return make_device(self.device)


class Search(Machine):
    batch_size: o.BatchSize = 256
    precision: Precision | None = o.option(
        None, "Precision of the search, fp32 by default. Successes are checked in the model's own precision."
    )

    compile: bool | None = o.option(
        None, "Compile the search, or never; by default on a GPU where the work is worth a minute."
    )

    freeze: bool | None = o.option(
        None, "Search on a frozen copy, or never; by default where the work is long enough."
    )

    @property
    def searched(self) -> str:
        return self.precision or "fp32"

    def frozen(self, net: nn.Module) -> nn.Module | Prepared:
        """Return the model as attacks take it: by itself, as it is for good, or with a search copy."""
        asked = self.searched != "fp32" or self.compile is not None
        if self.freeze is False:
            if asked:
                o.refuse("--no-freeze goes with neither --precision nor --compile; leave one of them out.")
            return Plain(net)
        return freeze(net, self.precision, compile=self.compile) if asked or self.freeze else net


class Budget(Panel):
    norm: str | None = o.option(None, "Norm of the budget.", parser=o.parse_norm, metavar="|".join(THREATS))
    radius: float | None = o.number(None, "The budget, in input units: 0.3, 8/255.")
    step_size: float | None = o.number(None, "Length of a step, in input units.")


def make_device(text: str | None) -> torch.device:
    if text is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.zeros((), device=device).item()  # meta tensors hold no values
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(
            f"device {text!r} is not there ({str(error).splitlines()[0]}); 'fastadv doctor' shows what is."
        ) from error
    return device


def load_data(
    data: str,
    split: o.Split | None = None,
    data_dir: Path | None = None,
    limit: int | None = None,
    *,
    default: o.Split = "test",
    size: int | None = None,
) -> Any:
    """Load the data set of that name, its part `default` without a `split`; or the set in that folder."""
    if sets.is_named(data):
        return sets.load(data, split or default, data_dir=data_dir, size=size, limit=limit)
    if not is_set(data):
        o.look_up("data set", data, sets.names(), ", and the folder of a constructed set")
    o.refuse_given(f"has no effect on the constructed set {data}; leave it out.", split=split, size=size)
    made = sets.load_folder(data)
    return made if limit is None or limit >= len(made) else made.subset(first_samples(made, limit, tell=True))


def _accepted(name: str, offered: dict[str, Any]) -> dict[str, Any]:
    if ":" not in name:
        return offered
    try:
        takes = signature(factory(name)).parameters
    except (ValueError, TypeError):
        return {}  # create says what is wrong
    everything = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in takes.values())
    return {key: value for key, value in offered.items() if everything or key in takes}
