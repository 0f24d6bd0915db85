"""What a training run gives: the last weights, the best ones, and their moving average."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from fastadv.card import card
from fastadv.errors import CorruptFileError, InputError
from fastadv.models import save_weights
from fastadv.models.weights import read_weights
from fastadv.runs import processes
from fastadv.runs.checkpoint import RunRecord, put
from fastadv.runs.identity import plain, unsaved
from fastadv.train._steps import Steps
from fastadv.train.report import EpochReport, best


@dataclasses.dataclass
class Results:
    """The weights of a run, in its folder; without one, the best are kept in memory if `rewinds`."""

    steps: Steps
    record: RunRecord
    rewinds: bool
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    held: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    # of the best epoch, which its file, a state dict, leaves out: the checkpoint has them
    buffers: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def hold_buffers(self, past: Sequence[EpochReport]) -> None:
        """Hold the buffers that no file of weights has, if this epoch is the best so far."""
        if best(past) is past[-1]:
            self.buffers = {name: value.detach().clone() for name, value in unsaved(self.steps.model).items()}

    def keep_best(self, past: Sequence[EpochReport]) -> None:
        """Keep the weights, if this epoch is the best so far: averaged ones where there are such."""
        top, model = best(past), self.steps.model
        if top is None or top is not past[-1]:
            return
        with nullcontext() if self.steps.average is None else self.steps.average.in_model():
            self._write("best", top)
            if self.record.path is None and self.rewinds:
                self.held = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def finish(self, past: Sequence[EpochReport], rewind: bool, *, again: bool) -> None:
        """Leave the last or best (`rewind`) weights in the model; write them, `again` over a whole file."""
        shown = past[-1]
        if self.steps.average is not None:
            with self.steps.average.in_model():
                self._write("ema", shown, again)
        if rewind:
            shown = best(past) or shown
            put(self.steps.model, *processes.from_first(lambda: (self._best(shown), self.buffers)))
        self._write("model", shown, again)

    def _best(self, shown: EpochReport) -> dict[str, Tensor]:
        if self.record.path is None:
            return self.held
        path = self.record.path / "best.safetensors"
        if not _written(path, shown):
            raise CorruptFileError(
                f"{path}: expected the weights of epoch {shown.epoch}, got others or none; "
                "resume without patience, and with on_alarm='warn'"
            )
        return read_weights(path)[0]

    def _write(self, kind: str, report: EpochReport, again: bool = False) -> None:
        """Write the model's weights as KIND.safetensors, with a card, unless they are those of this epoch."""

        def write(path: Path) -> None:
            if again or not _written(path, report):
                about = {**self.record.config, **self.about}
                save_weights(self.steps.model, path, card("model", about, **_measured(report), weights=kind))

        self.record.result(f"{kind}.safetensors", write)


def _written(path: Path, report: EpochReport) -> bool:
    """Return whether the file is whole and of this very report, not of another run in this folder."""
    try:
        _, about = read_weights(path)
    except (InputError, CorruptFileError):
        return False
    there = about.get("measured", {})
    return all(there.get(name) == one for name, one in _measured(report).items())


def _measured(report: EpochReport) -> dict[str, Any]:
    return plain(dataclasses.asdict(report))
