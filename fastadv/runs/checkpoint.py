"""The files of a training run: its reports, and a checkpoint from which it goes on bit for bit."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastadv._checks import check_flag
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, save_tensors, write_text
from fastadv.runs.identity import check_same, unsaved
from fastadv.runs.work import Keeper

CHECKPOINT, REPORT = "checkpoint.safetensors", "report.jsonl"
FORMAT = "fastadv checkpoint 1"
LENGTHS = ("epochs", "earlier_epochs")  # of a run, which may be made longer


class State(NamedTuple):
    """What a checkpoint holds: tensors by name, and values of optimizer, scheduler and run (`progress`)."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]
    progress: dict[str, Any]


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


def put(model: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Put a state dict into the model, and the buffers that are not in it: in place where they fit."""
    model.load_state_dict(weights)
    here = dict(model.named_buffers())
    for name, tensor in buffers.items():
        if name in here and (here[name].shape, here[name].dtype) == (tensor.shape, tensor.dtype):
            with torch.no_grad():
                here[name].copy_(tensor)
        else:  # a forward may assign one of another size
            part, _, own = name.rpartition(".")
            tensor = tensor.to(next(model.parameters()).device, copy=True)
            model.get_submodule(part).register_buffer(own, tensor, persistent=False)


def restore(state: State, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Put a checkpoint into the model, in place, and into a fresh optimizer and scheduler."""
    tensors, plain, _ = state
    put(model, *(kept(state, part, torch.device("cpu")) for part in ("model", "buffer")))
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


class RunRecord(Keeper):
    """What `train.fit` keeps of the run `config`; `stopped` is its checkpoint, or None."""

    def __init__(self, run_dir: str | os.PathLike[str] | None, config: Mapping[str, Any], resume: bool):
        if check_flag("resume", resume) and run_dir is None:
            raise InputError(
                "run_dir: expected the folder of the run to resume, got None; "
                "pass run_dir=, or leave out resume"
            )
        self.config, self.reports = dict(config), list[dict[str, Any]]()
        super().__init__(run_dir)
        try:
            self.stopped = self.begun(CHECKPOINT, resume, "a checkpoint", self._own)
        except BaseException:
            self.close()
            raise
        if self.stopped is not None:
            self.reports = list(self.stopped.progress["reports"])
            self.config |= self._lengths(self.stopped.progress["config"])

    def _lengths(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the earlier lengths of the run, each as [epochs done, epochs asked for]."""
        earlier, before = list(stored.get("earlier_epochs", ())), stored["epochs"]
        if before not in (None, self.config["epochs"]):
            earlier.append([len(self.reports), before])
        return {"earlier_epochs": earlier} if earlier else {}

    @property
    def checkpoint(self) -> Path | None:
        """Where the checkpoint lies; None where there is none yet."""
        return self.there(CHECKPOINT)

    def _own(self, path: Path) -> State:
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT or "state" not in metadata:
            raise CorruptFileError(
                f"{path}: expected a {FORMAT!r}, got {metadata.get('format', 'another file')!r}; "
                "choose another folder"
            )
        values = json.loads(metadata["state"])
        both = values["progress"]["config"], self.config
        check_same(path, *(one | dict.fromkeys(LENGTHS) for one in both))
        return State(tensors, values, values["progress"])

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        kept: Mapping[str, Tensor],
        **progress: Any,
    ) -> None:
        """Write what `restore` and `kept` need: config, reports, JSON-able `progress`, and tensors."""

        def write(path: Path) -> None:
            tensors, values = _parts(optimizer)
            about = {"config": self.config, "reports": self.reports, **progress}
            text = json.dumps({"progress": about, **values, "scheduler": scheduler.state_dict()})
            for part, held in (("model", model.state_dict()), ("buffer", unsaved(model))):
                for name, value in held.items():  # tied weights share memory
                    tensors[f"{part}/{name}"] = value.detach().to("cpu", copy=True)
            save_tensors(path, tensors | dict(kept), {"format": FORMAT, "state": text})

        self.result(CHECKPOINT, write)

    def report(self) -> None:
        """Write report.jsonl, one entry a line. All are written each time: a kill loses and doubles none."""
        lines = "".join(json.dumps(entry) + "\n" for entry in self.reports)
        self.result(REPORT, partial(write_text, text=lines))


def read_report(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    path = Path(folder) / REPORT
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected the reports of a run, got no such file; check its name"
        ) from error
    except ValueError as error:
        raise CorruptFileError(
            f"{path}: expected one report per line, got {error}; resume the run to write it again"
        ) from error
    return entries
