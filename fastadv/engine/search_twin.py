"""The search twin of a frozen model: a copy in the form that is fastest."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine import guard
from fastadv.engine.arguments import checked_directions
from fastadv.engine.copying.fold import Watch
from fastadv.engine.form import Form
from fastadv.engine.graph import Gradient
from fastadv.engine.lens import Lens
from fastadv.engine.pipeline import Pipeline, left_out
from fastadv.engine.pull import pull, pull_scaled
from fastadv.engine.rounding import Format
from fastadv.engine.trusted import captures
from fastadv.ops._step import may_be_narrow
from fastadv.rng import generators_kept

log = logging.getLogger("fastadv")

WRONG_GRADIENT = "the gradient of the search was not that of the model"
WRONG_LOGITS = "the logits of the search were not those of the model"
FAR = 0.8  # below that mean cosine, a search in half precision is weak
FAR_OFF = "gradients point elsewhere than the model's, by a mean cosine of"
NOTHING = "there was no gradient to compare"


class SearchTwin(Pipeline):
    """Logits and gradients of the model in its `form`: steps of the pipeline."""

    @property
    def learns(self) -> bool:
        """Whether the first pass is preceded by one that is watched for layers to fold."""
        folds = self.form.rewriting.folds
        return folds is not None and folds.unknown and not self.form.compiled

    def first(self, x: Tensor) -> Tensor:
        """Return the logits of the first pass, in the form in which it works, and folded."""
        if self.form.compiled:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        if self.learns:
            self.passed("watched", self._watch, x, whole=True)
        return self.passed("first", self.once, x, whole=True)

    def _watch(self, x: Tensor) -> None:
        form, folds = self.form, self.form.rewriting.folds
        if folds is not None:  # or else it was left
            watch = Watch(folds)
            self.forward(form.ready(x), form, form.rewriting.lens(watch, compared=True))
            folds.learn(watch)
            self.scoring = self._for_scores(form)
            self.notes.add(f"folded {len(folds)} BatchNorm")

    def logits(self, x: Tensor) -> Tensor:
        """Return the mean logits of `eot` passes of x; a step of `passed`."""
        made = list[Tensor]()
        while len(made) < self.options.eot:
            form = self.scoring
            ready = form.ready(x)
            kind = ready.dtype, ready.shape
            # a lens takes as long as a small network itself, and rewrites make passes faster, not right
            lens = None if kind in self.bare else form.lens()
            try:
                logits = self.forward(ready, form, lens)
            except Exception:
                if kind not in self.bare:
                    raise
                self.bare.discard(kind)  # on another way through the model, a layout may need its rewrite
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
        self,
        x: Tensor,
        directions: Tensor | Callable[[Tensor], Tensor],
        reduce: Callable[[Tensor], Tensor] | None = None,
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
            chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
            shape = x.shape[1:] if reduce is None else ()
            gradients, first = x.new_empty(len(x), chosen.shape[1], *shape), None
            for place, by_logits in enumerate(chosen.unbind(1)):
                gradient = self.backward(form, attached, leaf, by_logits, retain_graph=True)
                gradients[:, place] = gradient if reduce is None else reduce(gradient.to(x.dtype))
                first = gradient.to(x.dtype, copy=True) if first is None else first
            # one of them, where there is one
            by_logits, first = chosen[:, :1].sum(1), torch.zeros_like(x) if first is None else first
            if self._compared(lens, x, one, by_logits, first):
                return logits, gradients

    def _compared(
        self,
        lens: Lens | None,
        x: Tensor,
        logits: Tensor,
        by_logits: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> bool:
        """Return whether `logits` at x, seen through `lens`, and their `gradient` may be used.

        gradient: that of by_logits [B, K] @ logits; None for a pass without one. The first pass of each kind
        is compared with the model as given (`Trusted`). Where that does not agree, what was wrong is left,
        and the pass is to be taken again.
        """
        form = self.scoring if gradient is None else self.form
        if form is self.as_given:
            return True
        used = gradient is not None, *(lens.used if lens else ())
        if not ((lens and lens.used) or self.differs) or not len(x) or x.device.type == "meta" or captures(x):
            return True
        # of a graph, rows without the spare ones were compared
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

            def wrong(logits: Tensor | None = None, gradient: Tensor | None = gradient) -> str | None:
                form = self.form if by_logits is not None else self.scoring
                given = replace(self.reference, whole=form.whole)
                forms = {"searched": form, "given": given, "plain": form.without_functions()}
                looks = {name: partial(self.unfolding, self._look, each) for name, each in forms.items()}
                logits = looks["searched"](x) if logits is None else logits
                formats: list[Format] = [form.rounds] if form.rounds else [given.weights, form.dtype]
                if not guard.same_logits(guard.Looks(**looks), x, logits, formats, most):
                    return WRONG_LOGITS
                # estimates come from logits
                if by_logits is None or self.probing:
                    return None
                pulls = {name: partial(self.unfolding, self.pull, each) for name, each in forms.items()}
                found = pulls["searched"](x, by_logits) if gradient is None else gradient
                format = form.rounds or form.dtype
                ways = guard.Ways(**pulls, measured=partial(self._tell, format))
                agreed = guard.agrees(ways, x, by_logits, found, format, most)
                # where there is nothing to compare, the next pass of that kind is
                return {True: None, None: NOTHING, False: WRONG_GRADIENT}[agreed]

            why = wrong(logits)
            if why is None:
                trusted.add(used, x, logits)
            if why in (None, NOTHING):
                return True
            names = set(self.form.rewriting.names)
            culprit = self.leave_culprit(lambda: wrong(gradient=None) in (None, NOTHING))
            trusted.off |= names - set(self.form.rewriting.names)
            self.notes.warn(left_out(culprit, str(why)))
            self.count_compared(len(x), 0 if gradient is None else len(x))
            return False

    def _tell(self, format: Format, cosine: float) -> None:
        """Note how near gradients in half precision are to the model's, and warn once where they are not."""
        name = str(format).removeprefix("torch.")
        if not any(note.startswith(f"{name} gradients") for note in self.notes.texts):
            self.notes.add(f"{name} gradients: mean cosine with the model's {cosine:.2f}")
        if cosine < FAR and not any(FAR_OFF in note for note in self.notes.texts):
            self.notes.warn(f"{name} {FAR_OFF} {cosine:.2f}; search without that precision")

    def _look(self, form: Form, x: Tensor) -> Tensor:
        """Return the logits at x in that form; where gradients are followed, as if one was."""
        self.count_compared(len(x))
        ready = form.leaf(x) if torch.is_grad_enabled() else form.ready(x)
        return self.forward(ready, form, form.lens(compared=True)).detach()

    def backward(
        self, form: Form, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False
    ) -> Tensor:
        """Return `pull` in the form's precision; in float32 where that is float16, which would underflow."""
        # what a checkpoint computes again is rewritten as before
        with form.precisely(leaf.device.type), form.lens() or nullcontext():
            if torch.float16 not in (form.weights, form.autocast):
                return pull(attached, leaf, by_logits, retain_graph, form.whole)
            # samples that may mix have one scale
            apart = self.room is not None and isinstance(form.model, nn.Module)
            return pull_scaled(attached, leaf, by_logits, retain_graph, apart, form.whole)

    def pull(self, form: Form, x: Tensor, by_logits: Tensor) -> Tensor:
        """Return the gradients [B, ...] of by_logits [B, K] @ logits at x, in that form."""
        self.count_compared(len(x), len(x))
        leaf = form.leaf(x)
        attached = self.forward(leaf, form, form.lens(compared=True))
        return self.backward(form, attached, leaf, by_logits.to(attached.dtype))

    def knows(self, x: Tensor) -> bool:
        """Return whether gradients of so many rows like x were compared with the model's."""
        return not (self.differs or self.form.rewriting) or self.trusted.knows_size(x)

    def probes(self) -> int:
        """Return how many samples parts that estimate gradients have passed through others so far."""
        return sum(part.gradient_probes for part in self.probing)
