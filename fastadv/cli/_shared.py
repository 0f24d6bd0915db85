"""The options that commands share, and how devices, data sets and models are found by them."""

from dataclasses import dataclass, fields
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import nn

from fastadv import data as sets
from fastadv import models, rng
from fastadv._checks import check_device
from fastadv.arguments import pairs
from fastadv.cli import _options as o
from fastadv.cli._output import note
from fastadv.cli._signature import Front
from fastadv.data._load import is_set
from fastadv.engine import freeze
from fastadv.engine.precision import Precision
from fastadv.models.registry import SOURCES, build, factory
from fastadv.models.zoo import find

DATA = (
    f"{', '.join(sets.names())}, the folder of a constructed set, or your own as package.module:function, "
    "which returns a set, a pair (x, y) or a DataLoader. Options follow a colon: imagefolder:channels=1."
)
DATA_DIR = "Folder of the data sets; else FASTADV_DATA, else the user's cache."
SIZE = "Resize images to N x N; of files, the shorter side, then crop."
SAMPLES = "Use only N samples: the first, or of a sorted set, as of class folders, some of each by its share."
DEVICE = "cpu, cuda, cuda:1; by default the GPU where there is one."
MODEL = (
    f"{', '.join(models.names())}, timm:NAME, torchvision:NAME, rb:NAME for an entry of RobustBench's "
    "zoo, a TorchScript file, or your own as package.module:function: a function of images x in [0, 1] "
    "that returns logits, or one that returns such a model."
)
OPTION = "An argument of the model: width=16, normalize=cifar10, pretrained=true. May be repeated."
WEIGHTS = "Safetensors or torch file, of a net for images in [0, 1]; of rb:NAME also a folder of such."
PRECISION = "Precision of the search, by default fp32; successes are checked in the model's own precision."
STEPS = "Steps of a search; by default the recipe's, the paper's to construct, else 40 if an attack has none."
ZOO = "rb:"  # before an entry of RobustBench's zoo
KNOWN = (*models.names(), *SOURCES)  # where weights are untrained unless there is a file of them


def load_data(
    data: Annotated[str, DATA],
    data_dir: Annotated[o.DataDir | None, DATA_DIR] = None,
    size: Annotated[int | None, SIZE] = None,
    samples: Annotated[int | None, SAMPLES] = None,
    *,
    part: Literal["train", "test"] = "test",
) -> Any:
    """Load `part` of the data set of that name; or the set in that folder."""
    if sets.is_named(data) or not is_set(data):
        return sets.load(data, part, data_dir=data_dir, size=size, limit=samples)
    o.refuse_set(f"has no effect on the constructed set {data}; leave it out.", size=size)
    return sets.load(data, limit=samples)


Images = Annotated[partial[Any], Front(load_data, "data data_dir size samples")]


@dataclass(frozen=True)
class Machine:
    seed: Annotated[o.Seed, "Random seed."] = 0
    device: Annotated[str | None, DEVICE] = None

    def place(self) -> torch.device:
        return check_device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True)
class Network:
    model: Annotated[str, MODEL]
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE"), OPTION] = None
    weights: Annotated[Path | None, WEIGHTS] = None

    @property
    def config(self) -> dict[str, Any]:
        return {"model": self.model, "options": self.option, "weights": self.weights and str(self.weights)}

    def load(self, dataset: Any, machine: Machine, *, fresh: bool = False) -> Any:
        """Load the model for `dataset`, in eval mode on its device. fresh: untrained is wanted."""
        name, chosen, device = self.model, pairs(self.option or [], "--option"), machine.place()
        rng.seed_all(machine.seed, device)  # from which your own module draws its weights, and its noise
        offered = {"shape": tuple(dataset.shape), "classes": dataset.num_classes, "seed": machine.seed}
        if name.startswith(ZOO):
            return _load_entry(name, chosen, self.weights, dataset).to(device)
        if name in models.names():
            if chosen.keys() & {"shape", "classes"}:
                o.refuse("--option: shape and classes follow from --data; leave them out.")
        else:
            takes = signature(factory(name)).parameters
            every = any(argument.kind is Parameter.VAR_KEYWORD for argument in takes.values())
            offered = {key: value for key, value in offered.items() if every or key in takes}
        model = build(name, **offered | chosen)
        if not isinstance(model, nn.Module):
            o.refuse_set(f"has no effect on {name}, a function; leave it out.", weights=self.weights)
            return model
        if self.weights is not None:
            models.load_weights(model, self.weights)
        elif not (fresh or chosen.keys() & {"pretrained", "weights"}) and name.partition(":")[0] in KNOWN:
            note(f"{name} has its first, untrained weights; give trained ones with --weights")
        return model.to(device).eval()


def _load_entry(name: str, options: dict[str, Any], weights: Path | None, dataset: Any) -> nn.Module:
    """Load an entry for the images of `dataset`, and say what it is published with."""
    if options:
        o.refuse(f"--option: {name} says all about the model; leave it out.")
    entry = find(name.removeprefix(ZOO))
    called = getattr(dataset, "name", "images").partition(" ")[0]
    another = called in sets.names() and not called.startswith(entry.dataset)
    images = entry.dataset + (f":preprocessing={entry.preprocessing}" if entry.preprocessing else "")
    if tuple(dataset.shape) != entry.shape or dataset.num_classes != entry.classes or another:
        o.refuse(
            f"--model {name} takes images of {entry.dataset}, {[*entry.shape]} of {entry.classes} classes, "
            f"got {called}, {list(dataset.shape)} of {dataset.num_classes}; give --data {images}."
        )
    model = models.robustbench(entry.path, weights)
    if entry.clean is not None:
        note(
            f"RobustBench lists {entry.path} with {entry.clean:.2f}% clean and {entry.robust:.2f}% under "
            f"AutoAttack at {entry.threat} {entry.radius:.3g}"
        )
    if (prepared := getattr(dataset, "preprocessing", None)) != entry.preprocessing:
        note(f"RobustBench's images are {images}, these have preprocessing {prepared or 'unknown'}")
    return model


@dataclass(frozen=True)
class Search:
    batch_size: Annotated[int, "Samples worked on at once."] = 256
    precision: Annotated[Precision | None, PRECISION] = None

    def frozen(self, net: Any) -> Any:
        """Return the model as attacks take it: as it is, or with a search copy of this precision."""
        return net if self.precision in (None, "fp32") else freeze(net, self.precision)


@dataclass(frozen=True)
class Budget:
    norm: Annotated[o.Norm | None, "Norm of the budget."] = None
    radius: Annotated[float | None, "The budget, in input units: 0.3, 8/255."] = None
    step_size: Annotated[float | None, "Length of a step, in input units."] = None
    steps: Annotated[int | None, STEPS] = None

    @property
    def chosen(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
