"""Weights of RobustBench's zoo: where the files lie, and how they load."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastadv.errors import InputError
from fastadv.models.registry import factory
from fastadv.models.weights import listing, read_weights
from fastadv.models.wrappers import Normalized
from fastadv.models.zoo.entries import SHAPE, Entry, Net
from fastadv.runs.files import user_cache

_log = logging.getLogger("fastadv")

ENDINGS = (".pt", ".safetensors")


def weights_folder() -> Path:
    """Return the cache: the folder FASTADV_WEIGHTS, else fastadv/models in the user's cache."""
    named = os.environ.get("FASTADV_WEIGHTS")
    return Path(named).expanduser() if named else user_cache() / "models"


def locate(entry: Entry, weights: str | os.PathLike[str] | None) -> Path:
    """Return the file of weights: `weights`, in that folder, or in the cache; InputError if it is absent."""
    given = weights_folder() if weights is None else Path(weights).expanduser()
    if given.is_file():
        return given
    stems = (given / entry.path, given / entry.name)
    places = [stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{entry.path}: expected its weights in {places[0] if weights is None or given.is_dir() else given}, "
        f"got no such file; RobustBench keeps them at {entry.url}: put the file "
        "there, or give it as weights (--weights FILE)"
    )


BUFFERS = {"mu": (1, 3, 1, 1), "sigma": (1, 3, 1, 1)}
COUNTER = "num_batches_tracked"


def load(entry: Entry, path: Path) -> nn.Module:
    """Return the entry's net with the weights of a file; InputError where they are those of another net."""
    tensors = {
        name.removeprefix("module.").removeprefix("model."): tensor
        for name, tensor in read_weights(path, nest=entry.nest)[0].items()
    }
    make = factory(entry.net.create)
    with torch.device("meta"):  # neither drawn nor held: the file's tensors take the place of first weights
        model: nn.Module = make(shape=SHAPE, classes=entry.classes, seed=None, **entry.net.options)
    own = model.state_dict()
    wanted = layout(entry, own)
    _compare(entry, tensors, wanted, path)
    filled = {name: tensors.get(zoo_name(entry.net, name)) for name in own}
    model.load_state_dict(
        {
            name: torch.zeros_like(own[name]) if tensor is None else tensor.to(own[name].dtype)
            for name, tensor in filled.items()
        },
        assign=True,
    )
    if entry.constants is None:
        return model
    given = [tensors[name].flatten().tolist() for name in BUFFERS if name in tensors]
    return Normalized(model, *(given or entry.constants))


def zoo_name(net: Net, name: str) -> str:
    for pattern, replacement in net.rename:
        name = re.sub(pattern, replacement, name)
    return name


def layout(entry: Entry, own: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the zoo's file for a net whose state dict is `own`."""
    shapes = {zoo_name(entry.net, name): tuple(tensor.shape) for name, tensor in own.items()}
    if entry.net.unused is not None:
        parts = {name: shape for name, shape in shapes.items() if name.startswith("block1.")}
        shapes |= {name.replace("block1", entry.net.unused, 1): shape for name, shape in parts.items()}
    return shapes | (BUFFERS if entry.stored else {})


def _compare(
    entry: Entry, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise InputError unless the file has the wanted names and shapes, but for what old files lack."""
    optional = {name for name in wanted if name.endswith(COUNTER)}
    optional |= {*BUFFERS} if entry.stored and not tensors.keys() & BUFFERS.keys() else set()
    missing = wanted.keys() - tensors.keys() - optional
    foreign = tensors.keys() - wanted.keys()
    shapes = {
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    }
    if missing or shapes or (foreign and not entry.lenient):
        raise InputError(
            f"{path}: expected the weights of {entry.path} ({entry.net.name}, {entry.classes} classes), "
            f"got those of another net: missing {listing(missing)}; unexpected {listing(foreign)}; shapes "
            f"{listing(shapes)}; give the file of this entry, or the name of the entry that it belongs to"
        )
    broken = {name for name in tensors.keys() & wanted.keys() if not bool(tensors[name].isfinite().all())}
    if broken:
        raise InputError(
            f"{path}: expected finite weights of {entry.path}, got NaN or infinity in {listing(broken)}; "
            "get the file again"
        )
    if foreign:
        _log.warning("%s: %s is left out, as in RobustBench", path, listing(foreign))
