"""The search copy of a frozen model: the steps by which it computes, and how they are compared."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv._tf32 import rounds_as
from fastadv.engine import guard
from fastadv.engine.bound import Gradient
from fastadv.engine.capture import in_step
from fastadv.engine.copying.fold import Folds, Watch
from fastadv.engine.form import SMALL, Form
from fastadv.engine.guard import Format
from fastadv.engine.pipeline import Pipeline
from fastadv.engine.precision import HALF
from fastadv.engine.prepared import Directions
from fastadv.engine.pull import pull, pull_each, pull_scaled
from fastadv.engine.rewrite import Lens
from fastadv.ops._step import may_be_narrow
from fastadv.rng import generators_kept

log = logging.getLogger("fastadv")

WRONG = "the {} of the search copy differed from the model's by more than rounding"
BY_MEANS = "randomized model: the search copy was compared with it by the mean of a few passes"
MEASURABLE = 1e-3  # seconds of a pass, below which no note tells how long another precision takes
SLOWER = 1.05  # than the model's own precision, above what two times of one pass differ by
FAR = 0.8  # mean cosine, below which a search in half precision is weak
FAR_OFF = "gradients differ from the model's, with a mean cosine of"


class Apart(Exception):
    """A search copy does not answer as the model does."""


class SearchCopy(Pipeline):
    """Logits and gradients of the model in its `form`: steps of the pipeline."""

    def prepare(self, x: Tensor) -> None:
        """Pass x to see which layers may be folded, if the copy is not compiled, and then let it round."""
        folds = self.form.rewriting.folds
        if folds is not None and folds.unknown and not self.form.compiled:
            self.passed("watched", partial(self._watch, folds), x, whole=True)
        name, wide = self.options.precision, str(self.as_given.weights).removeprefix("torch.")
        own = self._seconds(x) if self.narrow and name in HALF else 0.0
        if self.narrow:
            self.use_narrow()
        if self.form.compiled:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        if own > MEASURABLE and (ratio := self._seconds(x) / own) > SLOWER:
            self.notes.add(f"{name} takes {ratio:.2f} times as long as {wide}; use precision='auto'")

    def _seconds(self, x: Tensor) -> float:
        """Return the time of a pass, after one that prepares kernels."""
        taken = list[float]()
        for _ in range(2):
            started = time.perf_counter()
            self.passed("timed", lambda x: self.once(x), x, whole=True)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        self.count_compared(2 * len(x))
        return min(taken)

    def _watch(self, folds: Folds, x: Tensor) -> None:
        form, watch = self.form, Watch(folds)
        self.count_compared(len(x))
        self.forward(form.ready(x), form, form.rewriting.watching(watch))
        folds.learn(watch)
        if self._folding_gains(folds.widest, x.device):
            self.scoring = self._for_scores(form)
            self.notes.add(f"folded {len(folds)} BatchNorm")
            # of small ones, scores read the others; a copy that follows has its own
            if folds.widest >= SMALL and self.values is None:
                folds.release(cast(nn.Module, self.as_given.model))
        else:
            self.notes.add("not folded: activations so small that a GPU waits for the checks")
            self.use(form.without(Folds.name))
            if not (self.form.rewriting or self.narrow):
                self.use_given()

    def _folding_gains(self, widest: int, device: torch.device) -> bool:
        """Return whether folded layers, the largest result of which takes so many bytes a row, are faster."""
        return device.type == "cpu" or self.options.cuda_graph is True or widest >= SMALL

    def logits(self, x: Tensor) -> Tensor:
        """Return the mean logits of `eot` passes of x; a step of `passed`."""
        made = list[Tensor]()
        for _ in range(self.options.eot):
            form = self.scoring
            ready = form.ready(x)
            kind = ready.dtype, ready.shape
            # no lens where nothing was rewritten last time: on small networks it costs as much as the pass
            lens = None if kind in self.bare else form.lens()
            logits = self.forward(ready, form, lens)
            if lens is not None and not lens.used:
                self.bare.add(kind)
            self._compare(form, lens, x, logits)
            made.append(logits)
        return made[0] if len(made) == 1 else sum(made[1:], made[0]) / len(made)

    def gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, *, loss: losses.Loss, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`; a step of `passed`."""
        form = self.form
        leaf, lens = form.leaf(x), form.lens()
        attached = self.forward(leaf, form, lens)
        # copied, since they may be a part of x itself
        logits = attached.detach().clone()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        gradient = self.backward(form, attached, leaf, by_logits)
        self._compare(form, lens, x.detach(), logits, (by_logits, gradient))
        return value, logits, gradient if direction and may_be_narrow(gradient, x) else gradient.to(x.dtype)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Frozen.jacobian`; a step of `passed`."""
        # a compiled backward frees what the next one needs
        form = self.form.without_compiler().without_functions() if self.form.compiled else self.form
        leaf, lens = form.leaf(x), form.lens()
        attached = self.forward(leaf, form, lens)
        one = attached.detach()
        for _ in range(self.options.eot - 1):
            attached = attached + self.forward(leaf, form, form.lens())
        attached = attached / self.options.eot if self.options.eot > 1 else attached
        logits = attached.detach().clone()
        back = partial(self.backward, form, attached, leaf, retain_graph=True)
        chosen, gradients, first = pull_each(x, logits, directions, reduce, back)
        if form is self.form:
            self._compare(form, lens, x, one, (chosen[:, :1].sum(1), first))
        return logits, gradients

    def _compare(
        self, form: Form, lens: Lens | None, x: Tensor, logits: Tensor,
        pulled: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Raise Apart where a pass is not the model's; one of each dtype and shape of a sample is compared.

        pulled: gradients at the logits and, from these, at x.
        """
        compared, kind = self.compared, (*_shape(x), pulled is not None)
        rewritten = form is not self.as_given and (self.differs or (lens is not None and bool(lens.used)))
        if kind in compared or not rewritten or not len(x) or x.device.type == "meta":
            return
        # in a graph no value can be read; its rows were compared before
        if in_step() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        forms, format = (form, self.reference, form.without_functions()), rounds_as(form.format, x.device)
        # what a randomized model draws next does not depend on what was compared
        with self.lock, generators_kept(x.device):
            some = slice(guard.ROWS if len(x) > guard.ROWS and self.rows_apart(x) else len(x))
            x, logits, pulled = x[some], logits[some], pulled and (pulled[0][some], pulled[1][some])
            ways = guard.Ways(
                *(partial(self._pass, each) for each in forms),
                measured=partial(self._tell, format), by_means=partial(self.notes.add, BY_MEANS),
            )  # fmt: skip
            right, why = guard.same_logits(ways, x, logits, self.formats(form, x.device)), "logits"
            if pulled is not None and right is not False:
                right, why = guard.agrees(ways, x, *pulled, format), "gradient"
        if right is False:
            raise Apart(WRONG.format(why))
        if right:  # or else there was nothing to compare, and the next pass of this kind may have something
            compared.add(kind)

    def formats(self, form: Form, device: torch.device) -> list[Format]:
        """Return the formats by which logits of that form and of the model as given round."""
        return [rounds_as(each, device) for each in (self.as_given.weights, form.format)]

    def _tell(self, format: Format, cosine: float) -> None:
        """Note how near gradients in half precision are to the model's, and warn once where they are far."""
        name = str(format).removeprefix("torch.")
        if not any(note.startswith(f"{name} gradients") for note in self.notes.texts):
            self.notes.add(f"{name} gradients: mean cosine with the model's {cosine:.2f}")
        if cosine < FAR and not any(FAR_OFF in note for note in self.notes.texts):
            self.notes.warn(f"{name} {FAR_OFF} {cosine:.2f}; search in another precision")

    def _pass(self, form: Form, x: Tensor, by_logits: Tensor | None = None) -> Tensor:
        """Return the logits at x in that form, or the gradients [B, ...] of by_logits [B, K] @ logits."""
        self.count_compared(len(x), 0 if by_logits is None else len(x))
        leaf = form.leaf(x) if torch.is_grad_enabled() else form.ready(x)
        logits = self.forward(leaf, form, form.lens())
        if by_logits is None:
            return logits.detach()
        return self.backward(form, logits, leaf, by_logits.to(logits.dtype))

    def backward(
        self, form: Form, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False
    ) -> Tensor:
        """Return `pull` in the form's precision, scaled for float16, where gradients would underflow."""
        # the lens is for what a checkpoint computes again
        with form.precisely(leaf.device.type), form.lens() or nullcontext(), self.given.differentiated():
            if form.weights != torch.float16:
                return pull(attached, leaf, by_logits, retain_graph)
            # samples that may depend on each other share a scale
            return pull_scaled(attached, leaf, by_logits, retain_graph, self.room is not None)

    def knows(self, x: Tensor) -> bool:
        """Return whether gradients of rows like x were compared with the model's."""
        return not (self.differs or self.form.rewriting) or (*_shape(x), True) in self.compared


def _shape(x: Tensor) -> tuple[torch.dtype, torch.Size, bool]:
    """Return what batches share that are compared once; a single row takes ways of its own."""
    return x.dtype, x.shape[1:], len(x) == 1
