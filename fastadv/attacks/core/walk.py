"""Steps of steepest ascent from tensors alone, without a verdict: for training and for data sets."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fastadv.attacks.core.checks import StepSize
from fastadv.attacks.core.repeat import radii, without_rows
from fastadv.engine import Prepared
from fastadv.engine.capture import Rows, Step
from fastadv.threat import Threat

# (model, rows) -> what gives the gradient at points like `x_adv` of the rows
Look = Callable[[Prepared, Rows], Callable[[Tensor], Tensor]]


@dataclass
class Walk:
    """Projected steps along a gradient, on a GPU replayed from a CUDA graph where there can be one."""

    threat: Threat
    look: Look  # makes what asks a model for the gradient
    step_size: StepSize
    name: Hashable = None  # what `look` does, with all it depends on besides the rows; None for no graph
    copies: int = 1  # points that `look` passes for each sample

    def rows(self, x_adv: Tensor, x: Tensor, **others: Tensor | None) -> Rows:
        """Return all that has one row a sample; `x_adv` is what the steps change."""
        steps = self.step_size if isinstance(self.step_size, Tensor) and self.step_size.ndim else None
        named = {"x_adv": x_adv, "x": x, "radius": radii(self.threat), "step_size": steps, **others}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def __call__(self, classifier: Prepared, rows: Rows, steps: int) -> Tensor:
        step = self._step(classifier, rows)
        for done in range(steps):
            if done == 1:  # the first one has met the model, and checked the arguments
                if (moved := self._replayed(classifier, rows, steps - done)) is not None:
                    return moved
                step = self._step(classifier, rows)
            step()
        return rows["x_adv"]

    def _step(self, classifier: Prepared, rows: Rows) -> Step:
        threat = self.threat.resized(rows["radius"]) if "radius" in rows else self.threat
        gradient, x_adv = self.look(classifier, rows), rows["x_adv"]

        def step() -> None:
            threat.step_(x_adv, gradient(x_adv), rows["x"], rows.get("step_size", self.step_size))

        return step

    def _replayed(self, classifier: Prepared, rows: Rows, steps: int) -> Tensor | None:
        """Return the points after so many steps of a graph; None where there is none."""
        x_adv = rows["x_adv"]
        passed = x_adv[:1].expand(self.copies * len(x_adv), *x_adv.shape[1:])
        captures = None if self.name is None else classifier.captures(passed)
        if captures is None or any(steps.shape[:1] != x_adv.shape[:1] for steps in rows.values()):
            return None  # which the step refuses in words
        key = self.name, *without_rows(self.threat), None if "step_size" in rows else self.step_size
        graph = captures.take(key, rows, steps)
        if graph is None:
            return None
        with classifier.uncounted():
            replayed = captures.run(graph, partial(self._step, classifier), steps)
        if not replayed:
            return None
        classifier.count(steps * len(passed))
        moved = graph.rows["x_adv"][: len(x_adv)].clone()
        captures.give_back(graph)
        return moved
