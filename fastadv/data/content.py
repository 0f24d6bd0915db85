"""What tells a data set from another: its own hash, its tensors, or its items, read once."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from fastadv import rng
from fastadv.data.sampling import known_labels
from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.card import data_hash

logger = logging.getLogger("fastadv")

READ = 100_000  # items that are read at most
GLANCE = 64  # items that processes compare, and that must be the same when they are read again


def describe_data(dataset: Any, identity: str | None = None) -> str:
    """Length and hash of a set; InputError where its content is unknown and no `identity` stands for it."""
    known = told(dataset, read=True) or read_once(dataset)
    if known is None and identity is None:
        raise InputError(
            f"identity: expected a text that stands for the items of a {type(dataset).__name__}, which are "
            "too many to read, differ when they are read again or hold unknown objects, got None; pass "
            "identity='...', another one whenever the images change, or give the set a `data_hash`"
        )
    return f"{len(dataset)} {known or 'of the identity'}"


def describe_shared(dataset: Any, run_dir: Any = None, identity: str | None = None) -> str:
    """Describe the data of a run, which processes compare at a glance; the first reads it for a `run_dir`."""
    if processes.world() > 1:
        labels = known_labels(dataset)
        seen = _glance(dataset), None if labels is None else data_hash(labels)
        processes.check_alike({"data": [len(dataset), *seen]})
    if run_dir is None:
        return f"{len(dataset)} {told(dataset) or 'unread'}"
    return processes.from_first(lambda: describe_data(dataset, identity))


def describe_set(dataset: Any, described: str | None = None) -> Any:
    """Return what the card of a model says of the images it was trained on, `described` by their run."""
    own = getattr(dataset, "describe", None)
    return own() if callable(own) else described or describe_data(dataset)


def read_once(dataset: Any) -> str | None:
    """Return the hash of all items; None where there are too many, or others whenever they are read."""
    if len(dataset) > READ or _glance(dataset) is None:
        return None
    logger.info("data: %d items are read once, as nothing else tells what they are", len(dataset))
    return _hash_of(dataset, range(len(dataset)))


def told(dataset: Any, read: bool = False) -> str | None:
    """Return the hash of all items, where a set tells it or lies in tensors; None of another set."""
    kind, own = type(dataset), getattr(dataset, "__dict__", {})
    # of Hugging Face's sets the fingerprint
    stated = None if hasattr(kind, "data_hash") else own.get("data_hash", own.get("_fingerprint"))
    for each in kind.__mro__:
        if "data_hash" in vars(each):
            stated = dataset.data_hash if read or "told" not in vars(each) else dataset.told()
        if {"data_hash", "__getitem__"} & vars(each).keys():  # a subclass may give other items
            break
    if isinstance(stated, str):
        return stated
    if kind is TensorDataset:
        return data_hash(*dataset.tensors)
    if kind is Subset:
        whole = told(dataset.dataset)
        return whole and data_hash("some of", whole, torch.as_tensor(dataset.indices, device="cpu"))
    if kind is ConcatDataset:
        parts = [told(each) for each in dataset.datasets]
        return None if None in parts else data_hash(parts, dataset.cumulative_sizes)
    return None


def _glance(dataset: Any) -> str | None:
    """Return the hash of some items, spread over all; None where they differ when they are read again."""
    places = range(0, len(dataset), max(1, len(dataset) // GLANCE))
    first, again = _hash_of(dataset, places), _hash_of(dataset, places)
    return first if first == again else None


def _hash_of(dataset: Any, places: Iterable[int]) -> str | None:
    """Return the hash of some items; None where one holds what cannot be seen."""
    digest = hashlib.sha256()
    with rng.generators_kept(rng.CPU):
        for place in places:
            rng.seed_all(rng.derive(0, "sample", place))  # of what a transform draws
            item = dataset[place]
            try:
                digest.update(f"{json.dumps(_plain(item))}\n".encode())
            except TypeError:
                return None
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return what an item holds as JSON, which refuses other objects; arrays and pictures by their hash."""
    if isinstance(value, Tensor):
        return {"tensor": data_hash(value)}
    if hasattr(value, "getpalette"):  # PIL's
        return {"picture": [value.mode, value.getpalette(), _plain(np.asarray(value))]}
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return {"array": [value.dtype.str, value.shape, _plain(value.tobytes())]}
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(each)] for key, each in value.items()]}
    return [_plain(each) for each in value] if isinstance(value, list | tuple | np.ndarray) else value
