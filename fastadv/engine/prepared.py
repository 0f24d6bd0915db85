"""Prepared: what an attack asks of a classifier, by whichever engine it is answered."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import Outputs
from fastadv.engine.bound import Ask, CleanPass, Gradient
from fastadv.engine.capture import Captures
from fastadv.engine.guard import allowed
from fastadv.engine.precision import rounds_as

Model = Callable[[Tensor], Tensor]
Loss = losses.Loss
Directions = Tensor | Callable[[Tensor], Tensor]
Rows = Tensor | None


@dataclass
class Counts:
    """Samples passed since the start."""

    forwards: int = 0
    backwards: int = 0


def read_from(holder: str, *names: str) -> Iterator[Any]:
    """Return properties that read these attributes and methods of what is held under a name."""
    return (property(attrgetter(f"{holder}.{name}")) for name in names)


def _count(name: str) -> Any:
    """Return a property that reads and writes one of the `counts`."""
    return property(attrgetter(f"counts.{name}"), lambda self, to: setattr(self.counts, name, to))


class Prepared:
    """A classifier as an attack asks it: logits, input gradients, jacobians, verdicts, counts.

    There are two: `Plain` is the model as given, and `Frozen`, which `fastadv.freeze` makes, searches on a
    faster copy; a `Mapped` puts a map of parameters before either, and asks which rows of a batch points are.
    In all, `verdict` and `model` are the model as given, in eval mode. All passes are made outside of
    autocast, and none computes a weight gradient.

    Attributes:
        source: what the caller gave; of a `Mapped` itself.
        eot: passes over which logits, losses and gradients of the search are averaged.
        model: the model as given, in eval mode.
        parts: the modules of the model, itself first; none of a function.
        dtype: of its weights, to which `verdict` casts x; None where there is not exactly one.
        device: where its samples must lie; None for a function, which takes them where they are.
        notes: what was done for the search, and what was not done and why.
        counts: samples passed since the start, `forwards` and `backwards`.
        compared: how many of both a Frozen passed to compare its search with the model, which depends on the
            batches that came before.
        outputs: what the model returns; other outputs than logits [B, K] of classes become rows [B, K].
        replayed: the graphs that a search has used, set by the search.
        patient: whether searches go to their last step on all samples, since several draws will judge.
    """

    source: Model
    eot: int
    counts: Counts
    model: Model
    parts: list[nn.Module]
    dtype: torch.dtype | None
    device: torch.device | None
    notes: tuple[str, ...]
    compared = (0, 0)
    outputs: Outputs
    replayed: Captures | None = None
    patient = False

    forwards: int = _count("forwards")
    backwards: int = _count("backwards")

    # The four questions. Each says by `rows`, int64 [n], of which samples of the batch its points are; None
    # are all of them in their order. `of` gives a batch; most models know no more of a row than x.

    def of(self, x: Tensor, ids: Tensor) -> "Prepared":
        """Return what answers about samples x [B, ...] with these ids int64 [B]."""
        return self

    def __call__(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return the logits of the search, the mean of `eot` passes.

        Where x asks for a gradient they are those of the model as given, and `autograd` follows them to x.
        """
        raise NotImplementedError

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Rows = None,
    ) -> Gradient:  # fmt: skip
        """Return a per-sample loss [B], the logits [B, K] and the gradient like x; means where `eot` > 1.

        A sample's gradient does not depend on its batch, non-finite values are returned as they are, and grad
        modes of the caller do not matter. `loss` is a name of `fastadv.losses.LOSSES` or a function (logits,
        y, targets) -> [B]; `y` is None where `targets`, the wanted classes, take its place, or where the loss
        reads neither. With `direction` the gradient of each sample is right up to a positive factor, so that
        it cannot underflow for confident samples; a search in bfloat16 gives it in that dtype for x in
        float32. With `eot` > 1 it is exact all the same: the mean of directions is not the direction of the
        mean. Raises NoGradientError where the logits do not depend on x differentiably.
        """
        raise NotImplementedError

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Rows = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return logits [B, K] and the gradients [B, C, ...] of directions [B, C, K] @ logits at x.

        `directions` may be a function of the logits, so that they can choose the classes; one-hot rows give
        rows of the Jacobian. `reduce` maps a gradient like x to [B], such as its norm; its results [B, C]
        replace the gradients, of which one at a time is in memory. One forward pass serves C backward passes,
        without compiled code or CUDA graphs. With `eot` > 1 the gradients are those of the mean logits, and
        the graphs of all passes are in memory at once.
        """
        raise NotImplementedError

    def verdict(self, x: Tensor, rows: Rows = None) -> Tensor:
        """Return the logits of the model as given, in eval mode and its own precision."""
        raise NotImplementedError

    # Of the model as given.

    def in_eval(self) -> AbstractContextManager[None]:
        """Keep the model in eval mode inside; then each of its parts gets its mode back."""
        raise NotImplementedError

    @property
    def output_shape(self) -> torch.Size | None:
        """The shape of a sample's outputs, after a pass of outputs that may be any."""
        raise NotImplementedError

    def having(self, *, eot: int, outputs: Outputs) -> "Prepared":
        """Return the same with so many passes, of a model that returns such outputs."""
        raise NotImplementedError

    @property
    def as_given(self) -> "Prepared":
        """What searches on the model as given, and counts here."""
        return self

    @property
    def exact(self) -> bool:
        """Whether the search uses the model as given itself, and no mean of several passes."""
        return self.as_given is self and self.eot == 1

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model as given sees inputs of a dtype, after it has met one."""
        raise NotImplementedError

    # Of a search, which holds the model `in_eval`, follows no gradient, and is outside of autocast.

    def clean_pass(self, x: Tensor, rows: Rows = None) -> CleanPass | None:
        """Pass x forward so that the first gradient, at x, takes no other pass; None where that cannot be."""

    def bind(self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Rows = None) -> Ask | None:
        """Return what gives `input_gradient`, with `direction`, at points [B, ...] of the samples x.

        `loss` is a name in `ops.logit_loss.KINDS`. None where that takes more than a pass.
        """

    def captures(self, x: Tensor) -> Captures | None:
        """Return the graphs of steps on rows like x; None where the model has none."""

    def compare(self, x: Tensor) -> None:
        """Compare the search with the model as given on rows like x, unless that was done."""

    def layout(self, x: Tensor) -> Tensor:
        """Prepare the search, and return x in the layout that it prefers, itself where it has that."""
        return x

    def full_batch(self, x: Tensor) -> int:
        """Return the number of rows at which a pass on a CPU takes the least time for each row."""
        return 0

    @property
    def search_dtype(self) -> torch.dtype | None:
        """The precision in which the search computes; None where the weights have not exactly one."""
        return self.dtype

    def differs(self, apart: Tensor, verdict: Tensor) -> bool:
        """Return whether losses of the search differ from those of the verdict by more than rounding."""
        # either loss moves at most twice as far as a logit
        formats = [rounds_as(dtype, verdict.device) for dtype in (self.dtype, self.search_dtype)]
        return bool(apart > 2 * allowed(verdict, formats))

    # Of a module, for attacks that are loops in plain PyTorch.

    training = False

    def eval(self) -> "Prepared":
        """Return itself, which answers in eval mode."""
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: no pass computes a weight gradient."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the model as given."""
        for module in self.parts[:1]:
            yield from module.parameters()

    # Of its own.

    def count(self, rows: int) -> None:
        """Count a pass of so many rows forward and backward."""
        self.counts.forwards += rows
        self.counts.backwards += rows

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Count nothing inside."""
        before = self.forwards, self.backwards
        try:
            yield
        finally:
            self.forwards, self.backwards = before

    @property
    def asked(self) -> tuple[int, int]:
        """`forwards` and `backwards` without what was `compared`, the same whatever came before."""
        return self.forwards - self.compared[0], self.backwards - self.compared[1]

    def add_note(self, note: str) -> None:
        """Add a note, unless it is there already."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the options that can change results, for the identity of a run."""
        raise NotImplementedError
