"""Checkpoints: one safetensors file that is whole or absent, and that knows which run it belongs to."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastadv._card import data_hash
from fastadv._files import load_tensors, save_tensors
from fastadv.errors import CorruptFileError, InputError

FORMAT = "fastadv checkpoint 1"


def _text_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _hash(tensors: Mapping[str, Tensor], state: str) -> str:
    return data_hash(
        _text_tensor("\n".join(sorted(tensors))),
        _text_tensor(state),
        *(tensors[name] for name in sorted(tensors)),
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full or failing disk becomes an OSError that names the file and says what is left."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        kept = "the previous one is kept" if path.exists() else "none was there before"
        text = f"{path}: expected to write {path.name}, got {error}; {kept}: free some space and run again with resume=True"
        raise OSError(getattr(error, "errno", None) or errno.EIO, text) from error


def save(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    losses: Tensor,
    progress: Mapping[str, Any],
) -> None:
    """Write everything that `restore` needs to go on bit for bit. Tied weights are stored twice."""
    tensors = {
        f"model/{name}": value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()
    }
    state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    tensors["losses"] = losses
    text = json.dumps(
        {
            "progress": dict(progress),
            "optimizer": plain,
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]],
            "scheduler": scheduler.state_dict(),
        }
    )
    with writing(path):
        save_tensors(path, tensors, {"format": FORMAT, "state": text, "hash": _hash(tensors, text)})


def load(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of the run `config` describes.

    Raises CorruptFileError for a damaged or foreign file, and InputError, naming what differs, for a checkpoint of another run.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT or "state" not in metadata:
        raise CorruptFileError(
            f"{path}: expected a {FORMAT!r}, got {metadata.get('format', 'another file')!r}; choose another run_dir"
        )
    if metadata.get("hash") != _hash(tensors, metadata["state"]):
        raise CorruptFileError(
            f"{path}: expected the contents its hash names, got other bytes; delete it and train again"
        )
    state: dict[str, Any] = json.loads(metadata["state"])
    stored, now = state["progress"]["config"], json.loads(json.dumps(dict(config)))
    different = [
        f"{key} ({stored.get(key)} there, {now.get(key)} here)" for key in now if stored.get(key) != now[key]
    ]
    if different:
        raise InputError(
            f"resume: expected the run of {path}, got another {', '.join(different)}; pass the same or choose another run_dir"
        )
    return tensors, state


def restore(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
) -> None:
    """Put the state of a checkpoint into the model, in place, and into a fresh optimiser and scheduler."""
    model.load_state_dict(
        {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    )
    per_parameter: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in state["optimizer"].items()
    }
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            per_parameter.setdefault(int(index), {})[key] = tensor
    fresh = optimizer.state_dict()["param_groups"]
    groups = [{**group, **stored} for group, stored in zip(fresh, state["groups"], strict=True)]
    optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    scheduler.load_state_dict(dict(state["scheduler"]))
