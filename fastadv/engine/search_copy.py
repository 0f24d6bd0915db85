"""The search copy of a frozen model: the steps by which it computes, and how they are compared."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv._tf32 import rounds_as
from fastadv.engine import guard
from fastadv.engine.copying.fold import Folds, Watch
from fastadv.engine.form import SMALL, Form
from fastadv.engine.graph import Gradient
from fastadv.engine.guard import Format
from fastadv.engine.pipeline import Pipeline, left_out
from fastadv.engine.prepared import Directions
from fastadv.engine.pull import pull, pull_each, pull_scaled
from fastadv.engine.rewrite import Lens
from fastadv.ops._step import may_be_narrow
from fastadv.rng import generators_kept

log = logging.getLogger("fastadv")

WRONG_GRADIENT = "the gradient of the search was not that of the model"
WRONG_LOGITS = "the logits of the search were not those of the model"
NOTHING = "there was no gradient to compare"
PARTS = 4  # in which a few rows pass the model as given where activations are large
FAR = 0.8  # mean cosine, below which a search in half precision is weak
FAR_OFF = "gradients differ from the model's, with a mean cosine of"


class SearchCopy(Pipeline):
    """Logits and gradients of the model in its `form`: steps of the pipeline."""

    @property
    def learns(self) -> bool:
        """Whether the first pass is preceded by one that is watched for layers to fold."""
        folds = self.form.rewriting.folds
        return folds is not None and folds.unknown and not self.form.compiled

    def first(self, x: Tensor) -> Tensor:
        """Return the logits of the first pass, after the one that is watched for layers to fold."""
        if self.form.compiled:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        if self.learns:
            self.passed("watched", self._watch, x, whole=True)
        return self.passed("first", self.once, x, whole=True)

    def _watch(self, x: Tensor) -> None:
        form, folds = self.form, self.form.rewriting.folds
        if folds is not None:  # a watched pass that failed has left it out
            watch = Watch(folds)
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
        return device.type == "cpu" or self.graphs is not None or widest >= SMALL

    def logits(self, x: Tensor) -> Tensor:
        """Return the mean logits of `eot` passes of x; a step of `passed`."""
        made = list[Tensor]()
        while len(made) < self.options.eot:
            form = self.scoring
            ready = form.ready(x)
            kind = ready.dtype, ready.shape
            # no lens where nothing was rewritten last time: on small networks it costs as much as the pass
            lens = None if kind in self.bare else form.lens()
            try:
                logits = self.forward(ready, form, lens)
            except Exception:
                if kind not in self.bare:
                    raise
                self.bare.discard(kind)  # on another path through the model, a layout may need its rewrite
                continue
            if lens is not None and not lens.used:
                self.bare.add(kind)
            if self._compared(lens, x, logits):
                made.append(logits)
        return made[0] if len(made) == 1 else sum(made[1:], made[0]) / len(made)

    def gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, *, loss: losses.Loss, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`; a step of `passed`."""
        agreed = False
        while not agreed:
            form = self.form
            leaf, lens = form.leaf(x), form.lens()
            attached = self.forward(leaf, form, lens)
            # copied, since they may be a part of x itself
            logits = attached.detach().clone()
            value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
            gradient = self.backward(form, attached, leaf, by_logits)
            agreed = self._compared(lens, x.detach(), logits, by_logits, gradient)
        return value, logits, gradient if direction and may_be_narrow(gradient, x) else gradient.to(x.dtype)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Frozen.jacobian`; a step of `passed`."""
        while True:
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
            if self._compared(lens, x, one, chosen[:, :1].sum(1), first):
                return logits, gradients

    def _compared(
        self,
        lens: Lens | None,
        x: Tensor,
        logits: Tensor,
        by_logits: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> bool:
        """Return whether a pass may be used; else what was wrong is left, and the pass is taken again."""
        form = self.scoring if gradient is None else self.form
        if form is self.as_given:
            return True
        used = gradient is not None, *(lens.used if lens else ())
        rewritten = bool(lens and lens.used) or self.differs
        if not rewritten or not len(x) or x.device.type == "meta" or guard.captures(x):
            return True
        # in a graph, the rows without the spare ones were compared before
        if self.replays or not self.trusted.owed(used, x, logits):
            return True
        # what a randomized model draws next does not depend on what was compared
        with self.lock, generators_kept(x.device):
            trusted = self.trusted
            most = trusted.owed(used, x, logits)
            if not most:  # by another thread, meanwhile
                return True
            if most < len(x) and not self.rows_apart(x):
                most = len(x)
            why = self._wrong(most, x, by_logits, logits, gradient)
            if why is None:
                trusted.add(used, x, logits)
            if why in (None, NOTHING):  # the next pass of this kind may have something to compare
                return True
            culprit = self.leave_culprit(lambda: self._wrong(most, x, by_logits) in (None, NOTHING))
            self.notes.warn(left_out(culprit, why))
            self.count_compared(len(x), 0 if gradient is None else len(x))
            return False

    def _wrong(
        self,
        most: int,
        x: Tensor,
        by_logits: Tensor | None,
        logits: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> str | None:
        """Return what is wrong with a pass of x on `most` of its rows; None where nothing is, or NOTHING."""
        form = self.scoring if by_logits is None else self.form
        given = replace(self.reference, whole=form.whole)
        forms = form, given, form.without_functions()
        parts = self._parts_of_few(x)
        looks = guard.Ways(*(partial(self.unfolding, self._look, each) for each in forms), parts=parts)
        logits = looks.searched(x) if logits is None else logits
        if not guard.same_logits(looks, x, logits, self.formats(form, x.device), most):
            return WRONG_LOGITS
        if by_logits is None:
            return None
        searched, *others = (partial(self.unfolding, self.pull, each) for each in forms)
        gradient = searched(x, by_logits) if gradient is None else gradient
        format = rounds_as(form.format, x.device)
        pulls = guard.Ways(searched, *others, measured=partial(self._tell, format), parts=parts)
        agreed = guard.agrees(pulls, x, by_logits, gradient, format, most)
        return {True: None, None: NOTHING, False: WRONG_GRADIENT}[agreed]

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

    def _parts_of_few(self, x: Tensor) -> int:
        """Return in how many parts a few rows pass the model as given, which keeps more than a search."""
        folds = self.form.rewriting.folds
        large = folds is not None and folds.widest >= SMALL and torch.is_grad_enabled()
        return PARTS if large and self.rows_apart(x) else 1

    def _look(self, form: Form, x: Tensor) -> Tensor:
        """Return the logits at x in that form, with a graph where gradients are followed."""
        self.count_compared(len(x))
        ready = form.leaf(x) if torch.is_grad_enabled() else form.ready(x)
        return self.forward(ready, form, form.lens(compared=True)).detach()

    def backward(
        self, form: Form, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False
    ) -> Tensor:
        """Return `pull` in the form's precision, scaled for float16, where gradients would underflow."""
        # the lens is for what a checkpoint computes again
        with form.precisely(leaf.device.type), form.lens() or nullcontext(), self.given.differentiated():
            if form.weights != torch.float16:
                return pull(attached, leaf, by_logits, retain_graph, form.whole)
            # samples that may depend on each other share a scale
            return pull_scaled(attached, leaf, by_logits, retain_graph, self.room is not None, form.whole)

    def pull(self, form: Form, x: Tensor, by_logits: Tensor) -> Tensor:
        """Return the gradients [B, ...] of by_logits [B, K] @ logits at x, in that form."""
        self.count_compared(len(x), len(x))
        leaf = form.leaf(x)
        attached = self.forward(leaf, form, form.lens(compared=True))
        return self.backward(form, attached, leaf, by_logits.to(attached.dtype))

    def knows(self, x: Tensor) -> bool:
        """Return whether gradients of so many rows like x were compared with the model's."""
        return not (self.differs or self.form.rewriting) or self.trusted.knows_size(x)
