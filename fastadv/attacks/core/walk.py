"""Steps of steepest ascent from tensors alone, without a verdict: for training and for data sets."""

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fastadv.attacks.core.problem import StepSize
from fastadv.attacks.core.repeat import counted, radii, uncounted, without_rows
from fastadv.engine import Prepared
from fastadv.engine.graph import Rows, Step
from fastadv.threat import Threat

Look = Callable[[Prepared, Rows], Tensor]


@dataclass(frozen=True)
class Walk:
    """Projected steps along a gradient, replayed from a CUDA graph where `freeze` was asked for them.

    Args:
        threat: in which a step is taken; radii of single samples are in the rows, as `Walk.rows` gives them.
        look: asks a model for the gradient, like `x_adv` of the rows.
        step_size: a number, or one value a sample.
        name: what `look` does, with all that it depends on besides the rows; None if no graph may have it.
        copies: points that `look` passes for each sample.
    """

    threat: Threat
    look: Look
    step_size: StepSize
    name: Hashable = None
    copies: int = 1

    def rows(self, x_adv: Tensor, x: Tensor, **others: Tensor | None) -> Rows:
        """Return all that has one row a sample; `x_adv` is what the steps change."""
        each = self.step_size if isinstance(self.step_size, Tensor) and self.step_size.ndim else None
        given = {"x_adv": x_adv, "x": x, "radius": radii(self.threat), "step_size": each, **others}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def __call__(self, classifier: Prepared, rows: Rows, steps: int) -> Tensor:
        """Take the steps, and return the last points."""
        for done in range(steps):
            if (moved := self._replayed(classifier, rows, steps - done)) is not None:
                return moved
            # a gradient that is captured alone would be captured once more with its step
            with nullcontext() if done else classifier.unreplayed():
                self._step(classifier, self.threat, rows)
        return rows["x_adv"]

    def _step(self, classifier: Prepared, threat: Threat, rows: Rows) -> None:
        gradient = self.look(classifier, rows)
        threat.step_(rows["x_adv"], gradient, rows["x"], rows.get("step_size", self.step_size))

    def _replayed(self, classifier: Prepared, rows: Rows, times: int) -> Tensor | None:
        """Return the points after so many steps of a graph; None where none was asked for or can be."""
        x_adv = rows["x_adv"]
        passed = x_adv[:1].expand(self.copies * len(x_adv), *x_adv.shape[1:])
        if self.name is None or not classifier.ready_to_capture(passed):
            return None
        if any(each.shape[:1] != x_adv.shape[:1] for each in rows.values()):
            return None  # which the step refuses in words
        key = self.name, *without_rows(self.threat), None if "step_size" in rows else self.step_size

        def make(static: Rows) -> Step:
            threat = self.threat.resized(static["radius"]) if "radius" in static else self.threat
            return partial(self._step, uncounted(classifier), threat, static)

        made = counted(
            classifier, lambda graphs: graphs(key, rows, make, ("x_adv",), times), times * len(passed)
        )
        return None if made is None else made[0]
