"""Steepest ascent alone, for training and for the construction of data sets.

`last_iterate` follows the gradient of a loss; `Walk` takes its steps along any gradient.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastadv import losses
from fastadv._checks import check_count, kind_of, knowing
from fastadv._waiting import waits
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.capture import Rows, Step
from fastadv.errors import InputError
from fastadv.labels import check_index
from fastadv.ops.logit_loss import KINDS
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize, check_step_size, check_threat, from_bytes

# (model, rows) -> what gives the gradient at points like `x_adv` of the rows
Gradients = Callable[[Prepared, Rows], Callable[[Tensor], Tensor]]


@dataclass
class Walk:
    """Projected steps along a gradient, on a GPU replayed from a CUDA graph where there can be one."""

    threat: Threat
    look: Gradients  # makes what asks a model for the gradient
    step_size: StepSize
    name: Hashable = None  # what `look` does, with all it depends on besides the rows; None for no graph
    copies: int = 1  # points that `look` passes for each sample

    def rows(self, x_adv: Tensor, x: Tensor, **others: Tensor | None) -> Rows:
        """Return all that has one row a sample; `x_adv` is what the steps change."""
        steps = self.step_size if isinstance(self.step_size, Tensor) and self.step_size.ndim else None
        named = {"x_adv": x_adv, "x": x, "radius": self.threat.radii, "step_size": steps, **others}
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
        key = self.name, *self.threat.step_key, None if "step_size" in rows else self.step_size
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


@knowing
def last_iterate(
    model: Model | Prepared, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int, step_size: StepSize,
    loss: losses.Loss = "ce", targets: Tensor | None = None, start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return x_adv after `steps` steps of steepest ascent in the threat, from `start` or else from x.

    The last point is returned, not the best, and no final check is made. Training and the construction of
    data sets need this; to measure robustness, use `pgd`. The values of x are not checked.

    Args:
        model: classifier or Frozen; x [B, ...] to logits [B, K].
        x: floating [B, ...] inside the box.
        y: int [B], labels; None where targets, or a loss that does not read it, are given.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; it may be infinite.
        steps: an integer >= 0; 0 returns the start.
        step_size: a number or [B], in input units (L0: coordinates).
        loss: as in `pgd`; "ce", the default, is what the papers train and build with.
        targets: int [B]; ascend towards these classes instead of away from y.
        start: like x, inside the threat; None is x.

    Returns:
        The last points, like x.

    Raises:
        InputError: an argument is of the wrong kind; the message names it.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> x_adv = fa.attacks.last_iterate(model, x, y, fa.Linf(0.3), steps=5, step_size=0.1)
        >>> bool(fa.Linf(0.3).contains(x_adv, x).all())
        True
    """
    check_count("steps", steps, 0)
    check_threat(threat)
    losses.check_loss(loss)
    classifier, x = prepare(model), from_bytes(x, threat.box)
    for name, value in (("x", x), ("start", x if start is None else start)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != x.shape:
            raise InputError(
                f"{name}: expected a floating tensor [B, ...], start like x, got {kind_of(value)}"
            )
    if isinstance(loss, str) and y is not None:
        y = check_index("y", y, len(x), x.device)
    with torch.inference_mode(False), torch.no_grad(), classifier.in_eval():
        if not isinstance(step_size, Tensor) or not waits(step_size.device):
            step_size = check_step_size(step_size, x)
        given = x.clone() if x.is_inference() else x.detach()
        x = classifier.layout(given)
        x_adv = x.clone() if start is None else classifier.layout(start.detach()).clone()

        def look(model: Prepared, rows: Rows) -> Callable[[Tensor], Tensor]:
            y, targets = rows.get("y"), rows.get("targets")
            labels, ask = targets if y is None else y, None
            if checked and labels is not None and not callable(loss) and loss in KINDS:
                ask = model.bind(rows["x"], labels, loss, targets)
            general = partial(model.input_gradient, y=y, loss=loss, targets=targets, direction=True)
            checked.append(True)  # by the first gradient
            return lambda points: (ask or general)(points)[2]

        checked = list[bool]()
        # a loss that is a function may hold one value for each sample
        walk = Walk(threat, look, step_size, ("last_iterate", loss) if isinstance(loss, str) else None)
        x_adv = walk(classifier, walk.rows(x_adv, x, y=y, targets=targets), steps)
        # a Frozen may prefer an order of memory that the model refuses
        return x_adv.contiguous() if given.is_contiguous() else torch.empty_like(given).copy_(x_adv)
