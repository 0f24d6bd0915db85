"""What tells a data set from another: its tensors, or samples of it, as they come out of `[i]`."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from fastadv import rng
from fastadv.data.imageset import ImageSet
from fastadv.hashes import data_hash

READ = 256  # samples that are read, from the first to the last


def describe_data(dataset: Any) -> str:
    """Return the length of a set with a hash: of its tensors, or of some samples, in a small set of all.

    What a transform draws is drawn under a fixed seed. Where samples differ when they are read again, the
    length alone is known.
    """
    if (whole := _hash_of_tensors(dataset)) is not None:
        return f"{len(dataset)} {whole}"
    first, again = _hash_of(dataset), _hash_of(dataset)
    return f"{len(dataset)} {first if first == again else 'drawn'}"


def describe_set(dataset: Any, described: str | None) -> Any:
    """Return what the card of a model says of the images it was trained on, `described` by their run."""
    describes = getattr(dataset, "describe", None)
    return describes() if callable(describes) else described


def _hash_of_tensors(dataset: Any) -> str | None:
    """Return the hash of a set that lies in memory; None of another."""
    kind = type(dataset)
    if kind is ImageSet or vars(kind).get("hash_is_whole"):  # a subclass may change the items
        return str(dataset.data_hash)
    if kind is TensorDataset:
        return data_hash(*dataset.tensors)
    whole = _hash_of_tensors(dataset.dataset) if kind is Subset else None
    return whole and data_hash("some of", whole, torch.as_tensor(dataset.indices, device="cpu"))


def _hash_of(dataset: Any) -> str:
    digest, count = hashlib.sha256(), len(dataset)
    with rng.generators_kept(rng.CPU):
        for place in sorted({(count - 1) * k // (READ - 1) for k in range(READ)}):
            rng.seed_all(rng.derive(0, "sample", place))
            digest.update(f"{json.dumps(_plain(dataset[place]))}\n".encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return what a sample holds as JSON: arrays and pictures by their hash, other objects by their class."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": data_hash(value)}
    if hasattr(value, "getpalette"):  # PIL's
        return {"picture": [value.mode, value.getpalette(), _plain(np.asarray(value))]}
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return {"array": [value.dtype.str, value.shape, _plain(value.tobytes())]}
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return {type(value).__qualname__: "" if " at 0x" in repr(value) else repr(value)}
