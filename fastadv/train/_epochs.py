"""The epochs of a run, trained one by one as they are asked for."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import ParamSpec

from torch import Tensor

from fastadv.errors import InputError
from fastadv.train._run import Run
from fastadv.train.report import EpochReport

P = ParamSpec("P")


class Epochs(Iterator[EpochReport]):
    """The reports of a run: each `next` trains an epoch."""

    def __init__(self, run: Run) -> None:
        self._run, self._reports = run, run.go()

    def __next__(self) -> EpochReport:
        return next(self._reports)

    def averaged(self) -> dict[str, Tensor]:
        """Copy the moving average of the weights so far, as a state dict.

        Raises InputError for a run without `ema`.
        """
        if self._run.steps.average is None:
            raise InputError(
                "ema: expected a run with a moving average, got one without; "
                "pass optimization=Optimization(ema=0.9995)"
            )
        with self._run.steps.average.in_model():
            return {name: value.clone() for name, value in self._run.steps.model.state_dict().items()}

    def close(self) -> None:
        """Stop here, and free the folder."""
        self._reports.close()
        self._run.record.close()


def to_the_end(each: Callable[P, Epochs]) -> Callable[P, list[EpochReport]]:
    """Return the same call, which trains all epochs and returns their reports."""

    @wraps(each)
    def fit(*args: P.args, **options: P.kwargs) -> list[EpochReport]:
        return list(each(*args, **options))

    fit.__name__ = fit.__qualname__ = "fit"
    return fit
