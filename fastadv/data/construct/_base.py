"""The base of a construction, read by sample number, its source model and its search, checked at first."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._checks import check_choice, check_count, check_number, check_seed
from fastadv.answers import answers
from fastadv.data._batches import batches
from fastadv.data.content import describe_data
from fastadv.data.folder import FolderSet
from fastadv.data.given import as_dataset
from fastadv.data.imageset import UNIT, Box, ImageSet
from fastadv.data.sampling import known_labels, sample_count
from fastadv.engine import Frozen, Prepared
from fastadv.engine import prepare as prepared
from fastadv.engine.module import dtype_of
from fastadv.engine.search_copy import ROWS
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from fastadv.models.wrappers import representation
from fastadv.ops._rows import PerRow
from fastadv.runs.identity import BY_NAME, describe
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat

STARTS = ("images", "noise")
Model = nn.Module | Prepared
Module = str | Callable[[Tensor], Tensor] | None


class Base:
    """Samples of `dataset`, a map-style Dataset of (image in the box, label), on `device`."""

    def __init__(self, dataset: Dataset[Any], device: torch.device, box: Box = UNIT) -> None:
        dataset = as_dataset(dataset, "base")
        self.count = sample_count(dataset, name="base")
        self.dataset, self.device, self.box = dataset, device, box
        self.name = str(getattr(dataset, "name", type(dataset).__name__))
        self.eight_bit = isinstance(dataset, FolderSet) or (
            isinstance(dataset, ImageSet) and dataset.dtype == torch.uint8
        )

    def fetch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples `ids` [B], on the device: (x float32 [B, ...] in the box, y int64 [B])."""
        x, y, _ = next(batches(self.dataset, len(ids), order=ids, workers=0, box=self.box))
        return x.to(self.device), y.to(self.device)

    def start(self, kind: str | None, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Return where the search from `x` [B, ...] begins: at x (None), at another image, or at noise."""
        if kind is None:
            return x
        if kind == "images":
            others = rng.integers(self.count - 1, rng.derive(seed, "construct partners"), ids)
            return self.fetch((ids + 1 + others) % self.count)[0]
        normal = rng.normal(x[0].numel(), rng.derive(seed, "construct noise"), ids)
        low, high = self.box
        share = 0.5 + normal.to(x.device).reshape(x.shape) / 20
        return (low + (high - low) * share).clamp(low, high)

    def class_names(self, outputs: int) -> tuple[str, ...]:
        return tuple(map(str, getattr(self.dataset, "classes", range(outputs))))

    def check_labels(self, outputs: int, *, every_class: bool) -> None:
        """Raise InputError where labels do not fit a model, or (`every_class`) where a class has no image."""
        names = self.class_names(outputs)
        if len(names) != outputs:
            raise InputError(f"model: expected logits of the {len(names)} classes of the base, got {outputs}")
        labels = known_labels(self.dataset)
        if labels is None:
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs:
            raise InputError(
                f"base: expected labels from 0 to {outputs - 1}, as the model has {outputs} classes, "
                f"got {low} to {high}"
            )
        empty = (labels.bincount(minlength=outputs) == 0).nonzero().flatten().tolist()
        if every_class and empty:
            raise InputError(
                f"base: expected images of all {outputs} classes, got none of class {empty}; "
                "the constructed set would lack a label"
            )

    def describe(self) -> dict[str, Any]:
        """Return what tells this data set from another: its description, or its length and a hash."""
        if isinstance(self.dataset, ImageSet | FolderSet):
            return self.dataset.describe()
        return {
            "name": self.name,
            "samples": self.count,
            "data_hash": describe_data(self.dataset).split()[-1],
        }


class Search(NamedTuple):
    """How each image is searched: the budget, the number of steps and their length, and the seed."""

    threat: Threat
    steps: int
    step_size: float | None
    seed: int

    def check(self) -> None:
        """Raise InputError unless there is one radius, and there are steps of a valid length."""
        check_threat(self.threat)
        self.threat.check_one_radius()
        check_count("steps", self.steps, 1)
        if self.step_size is None:
            self.threat.default_step_size(self.steps)  # InputError where there is none
        else:
            self.threat.check_step_size(check_number("step_size", self.step_size))
        check_seed(self.seed)

    @property
    def length(self) -> PerRow:
        """How long a step is; 20 makes it the paper's 0.1 for L2(0.5) and 100 steps."""
        return self.threat.default_step_size(self.steps, 20.0) if self.step_size is None else self.step_size

    def describe(self) -> dict[str, Any]:
        size = "20 * radius / steps" if self.step_size is None else float(self.step_size)
        return {"steps": self.steps, "step_size": size}


def prepare(
    model: Model, dataset: Dataset[Any], search: Search, options: Mapping[str, Any], *, every_class: bool
) -> tuple[Prepared, Base, int]:
    """Return (source frozen, base, number of classes); InputError if model and base do not fit."""
    base = Base(dataset, torch.device("cpu"), search.threat.box)

    def first() -> Tensor:
        return base.fetch(torch.tensor([0], device="cpu"))[0]

    work = search.steps * base.count
    frozen = prepared(model, work=work, freeze=True)
    base.device = frozen.device or base.device
    x = first()
    logits = frozen.verdict(x)
    if not logits.isfinite().all():
        raise InputError(
            "model: expected finite logits for the first image of the base, got others; check its weights"
        )
    base.check_labels(logits.shape[1], every_class=every_class)
    return _compared(frozen, base), base, logits.shape[1]


def _compared(frozen: Prepared, base: Base) -> Prepared:
    """Return `frozen`, with its copy compared on the same images in every process and every resumed run."""
    frozen.compare(base.fetch(torch.arange(min(ROWS, base.count), device="cpu"))[0])
    return frozen


def check_features(source: Prepared, module: Module, base: Base) -> Prepared:
    """Return the source model's representation, frozen; InputError unless it is finite floats [B, F]."""
    model = source.model
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: expected a torch.nn.Module, whose representation can be read, got {type(model).__name__}"
        )
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(module, str):
        check_choice("module", module, names)
    dtype = dtype_of(model) or torch.float32
    cut_at = (lambda x: module(x.to(dtype))) if callable(module) else module
    cut = representation(model, cut_at)
    x, _ = base.fetch(torch.tensor([0, base.count - 1], device="cpu"))
    with torch.no_grad():
        features = cut(x.to(dtype))  # flat for each image
    if len(features) != 2 or not features.is_floating_point():
        raise InputError(
            "module: expected a representation of shape [B, F] of floats for B = 2 images, "
            f"got {features.dtype} {list(features.shape)}; give another module or function"
        )
    if not features.isfinite().all():
        raise InputError(
            "module: expected a finite representation of the first and last image of the base, "
            "got other values; check the weights"
        )
    if isinstance(source, Frozen):
        return _compared(Frozen(cut, source.options), base)
    return prepared(cut)


def describe_model(source: Prepared, base: Base) -> dict[str, Any]:
    """Return what tells a model or function from another: weights or name, and answers on the base."""
    model = source.model
    numbers = torch.linspace(0, base.count - 1, min(32, base.count), device="cpu").long()
    known: dict[str, Any] = {"function": describe(model, identity=BY_NAME)}
    if isinstance(model, nn.Module):
        state = model.state_dict()
        known = {"class": type(model).__name__, "hash": data_hash(*(state[name] for name in sorted(state)))}
    return {"frozen": source.describe(), **known, "probe": answers(source, base.fetch(numbers)[0])}
