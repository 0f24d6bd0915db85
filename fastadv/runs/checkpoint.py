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
    """What a checkpoint holds: tensors by name, and the plain values of optimizer, scheduler and run."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]

    @property
    def progress(self) -> dict[str, Any]:
        """What the run wrote for itself, its `config` among it."""
        progress: dict[str, Any] = self.plain["progress"]
        return progress


def save(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    progress: Mapping[str, Any],
    kept: Mapping[str, Tensor],
) -> None:
    """Write everything that `restore` and `kept` need. Tied weights are stored twice.

    progress: JSON-able, what the run says of itself. kept: its other tensors, such as "losses" or
    "recipe/momentum".
    """
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
    tensors |= kept
    text = json.dumps(
        {
            "progress": dict(progress),
            "optimizer": plain,
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]],
            "scheduler": scheduler.state_dict(),
        }
    )
    save_tensors(path, tensors, {"format": FORMAT, "state": text})


def check_keeps(optimizer: Optimizer) -> None:
    """Raise InputError unless a checkpoint can hold the state of this optimizer, after a step."""
    state = optimizer.state_dict()
    bad = [f"state_dict()[{name!r}]" for name in state.keys() - {"state", "param_groups"}]
    for index, values in state.get("state", {}).items():
        if isinstance(index, int) and isinstance(values, Mapping):
            bad += [
                f"{name}, a {type(value).__name__}" for name, value in values.items() if not _is_kept(value)
            ]
        else:
            bad.append(f"state of {index!r}, which is no parameter")
    for group in state.get("param_groups", ()):
        options = {name: value for name, value in group.items() if name != "params"}
        bad += [
            f"{name} of a group, a {type(value).__name__}"
            for name, value in options.items()
            if isinstance(value, Tensor) or not _is_kept(value)
        ]
    if bad:
        raise InputError(
            "optimizer: expected one whose state is tensors and plain values by parameter, so that a "
            f"checkpoint holds it, got a {type(optimizer).__name__} with {bad[0]}; leave out run_dir, or "
            "take another one"
        )


def _is_kept(value: Any) -> bool:
    if isinstance(value, Tensor) or value is None or isinstance(value, bool | int | float | str):
        return True
    return isinstance(value, list | tuple) and all(
        _is_kept(each) and not isinstance(each, Tensor) for each in value
    )


def load(path: Path) -> State:
    """Read a checkpoint. CorruptFileError for a damaged or foreign file."""
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT or "state" not in metadata:
        raise CorruptFileError(
            f"{path}: expected a {FORMAT!r}, got {metadata.get('format', 'another file')!r}; "
            "choose another folder"
        )
    return State(tensors, json.loads(metadata["state"]))


def restore(state: State, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Put a checkpoint into the model, in place, and into a fresh optimizer and scheduler."""
    tensors, plain = state
    model.load_state_dict(
        {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    )
    per_parameter: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in plain["optimizer"].items()
    }
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
