"""The epochs of a run, trained one by one as they are asked for."""

import sys
import warnings
from collections.abc import Iterator

from torch import Tensor

from fastadv.errors import InputError
from fastadv.train._run import Run
from fastadv.train.report import EpochReport


class Epochs(Iterator[EpochReport]):
    """The reports of a run: each `next` trains an epoch. One that is thrown away untouched warns."""

    def __init__(self, run: Run) -> None:
        self._run, self._reports, self._untouched = run, run.go(), True

    def __next__(self) -> EpochReport:
        self._untouched = False
        return next(self._reports)

    def averaged(self) -> dict[str, Tensor]:
        """The state dict with the moving average of the weights so far.

        Raises InputError for a run without `ema`.
        """
        if self._run.steps.average is None:
            raise InputError("ema: expected a run with a moving average, got one without; pass ema=0.9995")
        with self._run.steps.average.in_model():
            return {name: value.clone() for name, value in self._run.steps.model.state_dict().items()}

    def close(self) -> None:
        """Stop here, and free the folder."""
        self._untouched = False
        self._reports.close()
        self._run.record.close()

    def __del__(self) -> None:
        # nobody reads a warning at the end of the interpreter
        if getattr(self, "_untouched", False) and not sys.is_finalizing():
            warnings.warn(
                "fit: expected its epochs to be iterated over, got none asked for, so nothing was trained; "
                "write `for report in fit(...)`, or call fastadv.train.run(...)",
                UserWarning,
                stacklevel=2,
            )
