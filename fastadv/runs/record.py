"""The record of a training run: its reports, and in a folder its checkpoint and its results."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastadv._checks import check_flag
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.checkpoint import State, load, save
from fastadv.runs.files import write_text
from fastadv.runs.identity import check_same
from fastadv.runs.work import Keeper

CHECKPOINT, REPORT = "checkpoint.safetensors", "report.jsonl"


class RunRecord(Keeper):
    """What `train.fit` and `ABS.fit` keep of the run `config`; `stopped` is its checkpoint, or None."""

    def __init__(self, run_dir: str | os.PathLike[str] | None, config: Mapping[str, Any], resume: bool):
        if check_flag("resume", resume) and run_dir is None:
            raise InputError(
                "run_dir: expected the folder of the run to resume, got None; "
                "pass run_dir=, or leave out resume"
            )
        self.config, self.reports = config, list[dict[str, Any]]()
        super().__init__(run_dir)
        try:
            self.stopped = self.begun(CHECKPOINT, resume, "a checkpoint", self._own)
        except BaseException:
            self.close()
            raise
        if self.stopped is not None:
            self.reports = list(self.stopped.progress["reports"])

    @property
    def checkpoint(self) -> Path | None:
        """Where the checkpoint lies; None where there is none yet."""
        return self.path / CHECKPOINT if self.path is not None and self.has(CHECKPOINT) else None

    def _own(self, path: Path) -> State:
        state = load(path)
        check_same(path, state.progress["config"], self.config)
        return state

    def save(
        self, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, kept: Mapping[str, Tensor],
        **progress: Any,
    ) -> None:  # fmt: skip
        """Write the checkpoint: config, reports, what is passed, and JSON-able `progress`."""

        def write(path: Path) -> None:
            about = {"config": self.config, "reports": self.reports, **progress}
            save(path, model, optimizer, scheduler, about, kept)

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
