"""Checkpoints: everything a training run needs to go on bit for bit, as one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.files import load_tensors, save_tensors

FORMAT = "fastadv checkpoint 1"


class State(NamedTuple):
    """What a checkpoint holds: tensors by name, and values of optimizer, scheduler and run (`progress`)."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    progress: dict[str, Any]


def save(
    path: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, progress: Mapping[str, Any],
    kept: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """Write everything that `restore` and `kept` need: `progress` as JSON, and the other tensors `kept`."""
    weights = {
        f"model/{name}": value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()
    }
    state_tensors, plain = _parts(optimizer)
    text = json.dumps({"progress": dict(progress), **plain, "scheduler": scheduler.state_dict()})
    save_tensors(path, weights | state_tensors | dict(kept), {"format": FORMAT, "state": text})


def check_keeps(optimizer: Optimizer) -> None:
    """Raise InputError unless a checkpoint can hold the state of this optimizer, after a step."""
    state = optimizer.state_dict()
    lost: object = sorted(state.keys() - {"state", "param_groups"})
    try:
        _, plain = _parts(optimizer)
        json.dumps(plain)
    except (TypeError, AttributeError) as error:
        lost = error
    if lost or not all(isinstance(index, int) for index in state["state"]):
        raise InputError(
            "optimizer: expected one whose state is tensors and plain values by parameter, so that a "
            f"checkpoint holds it, got a {type(optimizer).__name__} with others ({lost}); leave out run_dir, "
            "or take another one"
        )


def _parts(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer: its tensors by name, and what is left, as JSON."""
    state, tensors, plain = optimizer.state_dict(), dict[str, Tensor](), dict[str, dict[str, Any]]()
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return tensors, {"optimizer": plain, "groups": groups}


def load(path: Path) -> State:
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT or "state" not in metadata:
        raise CorruptFileError(
            f"{path}: expected a {FORMAT!r}, got {metadata.get('format', 'another file')!r}; "
            "choose another folder"
        )
    plain = json.loads(metadata["state"])
    return State(tensors, plain, plain["progress"])


def restore(state: State, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Put a checkpoint into the model, in place, and into a fresh optimizer and scheduler."""
    tensors, plain, _ = state
    model.load_state_dict(
        {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    )
    per_parameter = {int(index): dict(values) for index, values in plain["optimizer"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            per_parameter.setdefault(int(index), {})[key] = tensor
    fresh = optimizer.state_dict()["param_groups"]
    groups = [{**group, **stored} for group, stored in zip(fresh, plain["groups"], strict=True)]
    optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    scheduler.load_state_dict(dict(plain["scheduler"]))


def kept(state: State, part: str, device: torch.device) -> dict[str, Tensor]:
    """Return the tensors that were kept under `part`/..., by the rest of their names, on `device`."""
    # tensors read in the caller's inference mode could not be written outside it
    with torch.inference_mode(False):
        return {
            name.removeprefix(f"{part}/"): tensor.clone().to(device)
            for name, tensor in state.tensors.items()
            if name.startswith(f"{part}/")
        }
