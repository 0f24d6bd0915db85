"""Weights to and from files: safetensors with the model's card, or torch files without pickled objects."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_MODULE
from fastadv.engine.module import unwrap
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, load_torch, save_tensors
from fastadv.models._common import state_accuracy
from fastadv.models.adapt import Logits
from fastadv.models.wrappers import Normalized

# BatchNorm's count of batches, which old files lack
COUNTER = "num_batches_tracked"
# keys under which training scripts commonly nest a state dict
_NESTS = ("state_dict", "model_state_dict", "model")


def save_weights(
    model: nn.Module, path: str | os.PathLike[str], card: Mapping[str, Any] | None = None
) -> None:
    """Write the state dict of a model as safetensors; the file is whole or absent.

    Args:
        model: a module.
        path: of the file.
        card: what is known of the weights, for JSON; it is written into the file's metadata.
    """
    # cloned, because safetensors refuses tensors that share memory (tied weights)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, {"card": json.dumps(dict(card or {}), sort_keys=True)})


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins like safetensors: with the length of a header, 8 bytes, and JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_torch(path: Path, nest: str | None) -> dict[str, Tensor]:
    advice = "save model.state_dict() and give that; a TorchScript file is a whole model: give it as --model"
    content = load_torch(path, "a safetensors file or a torch file of plain tensors", advice)
    for key in (nest, *_NESTS):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CorruptFileError(
            f"{path}: expected a state dict (names to tensors), got {type(content).__name__}; "
            "save model.state_dict() and give that"
        )
    return {str(name): tensor for name, tensor in content.items()}


def read_weights(
    path: str | os.PathLike[str], nest: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict and its card from a safetensors or torch file, on the CPU.

    A torch file may hold the state dict under `state_dict`, `model_state_dict` or `model`. Only tensors are
    unpickled.

    Args:
        path: of the file.
        nest: another name under which a torch file may hold the state dict.

    Returns:
        The state dict, and the card; {} for a torch file, which has none.

    Raises:
        InputError: the file is missing.
        CorruptFileError: the file is truncated, damaged or foreign.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights, got none; check the path")
    if not _is_safetensors(path):
        return _read_torch(path, nest), {}
    tensors, metadata = load_tensors(path)
    try:
        card = json.loads(metadata.get("card", "{}"))
    except json.JSONDecodeError as error:
        raise CorruptFileError(
            f"{path}: expected a card in JSON, got one that does not parse; save the model again"
        ) from error
    return tensors, card


def load_script(path: str | os.PathLike[str]) -> nn.Module:
    """Return the model of a TorchScript file, on the CPU; CorruptFileError for another file."""
    try:
        with warnings.catch_warnings():  # of torch, which would have it exported anew
            warnings.simplefilter("ignore")
            model: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: expected a TorchScript file, as torch.jit.save writes it, got one that does not read; "
            "weights alone are --weights, beside the --model that they are of"
        ) from error
    return model


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != COMPILED_MODULE)


def read_plain(
    path: str | os.PathLike[str], nest: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the same, under the names of a net that was neither compiled nor in DistributedDataParallel."""
    tensors, card = read_weights(path, nest)
    tensors = {_plain(name): tensor for name, tensor in tensors.items()}
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors, card


def listing(names: set[str]) -> str:
    """Return the first names in words, and how many more there are."""
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"


def check_fit(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], path: str | os.PathLike[str],
    model: str, do: str, *, optional: Iterable[str] = (), lenient: bool = False,
) -> set[str]:  # fmt: skip
    """Return the names that are not wanted; InputError for those, unless lenient, missing ones and shapes."""
    missing = {name for name in wanted.keys() - tensors.keys() - {*optional} if not name.endswith(COUNTER)}
    foreign = tensors.keys() - wanted.keys()
    shapes = {
        f"{name} {list(tensors[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    }
    if missing or shapes or (foreign and not lenient):
        raise InputError(
            f"{path}: expected the weights of {model}, got those of another net: missing {listing(missing)}; "
            f"unexpected {listing(foreign)}; shapes {listing(shapes)}; {do}"
        )
    return foreign


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Put the weights of a safetensors or torch file into a model.

    A leading `module.` (DistributedDataParallel) and `_orig_mod.` (torch.compile) are dropped, and
    BatchNorm's batch counter may be missing, as in old files.

    Args:
        model: a module; changed only if all weights fit.
        path: of the file.

    Returns:
        The file's card; {} if it has none.

    Raises:
        InputError: names or shapes are not the model's.
        CorruptFileError: the file is damaged.
    """
    tensors, card = read_plain(path)
    whole = model = unwrap(model)
    if isinstance(model, Normalized) and not tensors.keys() & {"mean", "std"}:
        model = model.model.model if isinstance(model.model, Logits) else model.model
    state = model.state_dict()
    names = {_plain(name): name for name in state}
    wanted = {plain: tuple(state[name].shape) for plain, name in names.items()}
    do = "create the model that they were saved from, with its shape, classes and width"
    if any(name.startswith("model/") for name in tensors):
        do = "it is a checkpoint of training: give best.safetensors beside it, or resume the run"
    check_fit(tensors, wanted, path, type(model).__name__, do)
    model.load_state_dict({names[plain]: tensor for plain, tensor in tensors.items()}, strict=False)
    state_accuracy(whole, card.get("measured", {}).get("clean_accuracy"))
    return card
