"""The search twin of a frozen model, and the one pipeline by which batches pass it."""

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.arguments import checked_directions
from fastadv.engine.compared import Trusted, compared
from fastadv.engine.copying.fold import Refused, Watch, estimates_gradients
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.form import WAYS, Form
from fastadv.engine.graph import Graphs, replayed_gradient
from fastadv.engine.layout import lay_out
from fastadv.engine.lens import Lens
from fastadv.engine.narrow import narrowed
from fastadv.engine.notes import Lock, Notes
from fastadv.engine.options import Options
from fastadv.engine.parts import PROBE, Parts, mixes_rows
from fastadv.engine.pull import pull, pull_scaled
from fastadv.engine.room import Room, cut, joined, ran_out, room_of, slices
from fastadv.engine.scratch import Scratch
from fastadv.errors import InputError, NoGradientError
from fastadv.ops._step import may_be_narrow

log = logging.getLogger("fastadv")

Gradient = tuple[Tensor, Tensor, Tensor]  # loss [B], logits [B, K], gradient like x
T = TypeVar("T")

CAPTURED = "captured as CUDA graphs"  # a note
VERDICT = "verdict"  # the kind of passes of the model as given


class SearchTwin:
    """A model in the form that is fastest.

    A batch takes these ways, in this order: a captured graph replays it; it goes in parts that stay in the
    cache; in halves where memory runs out; and each part in the `form` of the moment, which leaves one of
    `engine.form.WAYS` after the other where a pass fails. What failed is not tried again, and noted once.
    """

    def __init__(
        self,
        form: Form,
        given: CheckedModel,
        notes: Notes,
        *,
        source: object,
        options: Options,
        as_given: Form,
        narrow: bool = False,
    ) -> None:
        """`as_given`: the form of the model as given. `narrow`: round more once logits were compared."""
        self.given, self.notes, self.source, self.options = given, notes, source, options
        self.as_given, self.narrow = as_given, narrow
        self.lock, self._scratch = Lock(), Scratch()
        self.graphs = Graphs() if options.cuda_graph else None
        self.rewrote = False
        self.use(form)
        self.trusted = Trusted.of(source, given.model, options)
        self.use(form.without(*self.trusted.off))
        # samples whose statistics are those of their batch must pass together
        mixed = isinstance(form.model, nn.Module) and mixes_rows(form.model)
        self.room: Room | None = None if mixed else room_of(source)
        if mixed and self.graphs is not None:
            self._leave_graphs("a BatchNorm takes statistics of the batch, which spare rows would change")

    def use(self, form: Form) -> None:
        """Compute in that form from now on."""
        before = getattr(self, "form", None)
        if before is None or form.model is not before.model or form.weights != before.weights:
            parts = form.model.modules() if isinstance(form.model, nn.Module) else ()
            self.probing: list[Any] = [part for part in parts if estimates_gradients(part)]
            self.trusted, self.rewrote = Trusted(), False
        elif form.channels_last != before.channels_last and isinstance(form.model, nn.Module):
            lay_out(form.model, form.channels_last)
        self.form, self.parts = form, Parts.of(self.source, form)
        if self.graphs is not None:  # what was captured is another form
            self.graphs = Graphs()

    def use_given(self) -> None:
        """Let the model as given be the twin, without any rewrite."""
        self.narrow = False
        self.use(self.as_given)

    def use_narrow(self) -> None:
        """Round as was asked for from now on."""
        self.narrow = False
        self.use(narrowed(self.form, self.options))

    @property
    def plain(self) -> bool:
        """Whether its logits are those of the model as given, to the last bit."""
        return not self.differs and not self.narrow and self.form.rewriting.exact

    @property
    def differs(self) -> bool:
        """Whether it is more than the model as given with some functions rewritten."""
        return self.form.model is not self.as_given.model or self.form.rounds is not None

    def passed(self, kind: str, step: Callable[..., T], x: Tensor, *rows: Any, whole: bool = False) -> T:
        """step(x, *rows) by the ways of this twin; the results [B, ...] of parts are joined.

        kind: names the pass: another one may have room for other numbers of rows. whole: all rows at once.
        """
        todo, made = [slice(0, len(x))] if whole else slices(len(x), self._rows_at_once(kind, x)), []
        alone = len(todo) == 1
        while todo:
            given: tuple[Any, ...] = (x, *rows) if alone else (x[todo[0]], *cut(todo[0], *rows))
            form = self.form
            try:
                made.append(step(*given))
                todo = todo[1:]
                continue
            except Refused as refused:
                self._unfold(refused)
                continue
            except Exception as error:  # compilers and models raise anything
                if isinstance(error, InputError | NoGradientError):
                    raise
                if not ran_out(error):
                    if kind == VERDICT:
                        raise
                    with self.lock:
                        if self.form is form:  # or else another thread has left something
                            made.append(self._mended(step, given, error))
                            todo = todo[1:]
                    continue
                if whole or self.room is None or len(given[0]) < 2:
                    raise
            # only here: the error holds on to what the pass had in memory
            todo, alone = self.room.halved(kind, x, todo), False
        return made[0] if len(made) == 1 else joined(made)

    def _rows_at_once(self, kind: str, x: Tensor) -> int:
        """How many rows pass together: as many as is fastest, of those that memory is not known to refuse."""
        rows, parts = len(x), self.parts
        if kind != VERDICT and parts is not None and parts.worth_splitting(x):
            # not counted: it is done once for a model, and the cost of a call is not that of what came before
            few, find = self.form.ready(x[:PROBE]), partial(parts.at_once, self.once)
            rows = self.passed("probe", find, few, whole=True)
        return rows if self.room is None else min(rows, self.room.most(kind, x))

    def _mended(self, step: Callable[..., T], given: tuple[Any, ...], error: Exception) -> T:
        """step(*given) without what it fails with, from now on; raises `error` where it always fails."""
        form, rewrote, why = self.form, self.rewrote, first_line(error)
        for way in WAYS:
            if not way.takes(form, rewrote, why):
                continue
            self.use(way.leave(form))
            try:
                made = step(*given)
            except (Exception, Refused):
                self.use(form)
                self.rewrote = rewrote
                continue
            note = f"{way.note} ({why})"
            if way.instead_of:
                self.notes.warn(note, way.instead_of)
            else:
                self.notes.add(note)
            return made
        raise error

    def _unfold(self, refused: Refused) -> None:
        folds = self.form.rewriting.folds
        if folds is not None and folds.refuse(refused.pair):
            why = "whose result is not read by its BatchNorm alone"
            self.notes.add(f"not folded: {refused.pair.name}, {why}")

    def forward(self, x: Tensor, form: Form, lens: Lens | None) -> Tensor:
        """The logits of x, which is ready for that form, seen through `lens`."""
        with form.precisely(x.device.type):
            if lens is None:
                return self.given(x, form.model)
            try:
                with lens:
                    logits = self.given(x, form.model)
            finally:
                self.rewrote = self.rewrote or bool(lens.used)
            # what a graph records it may hold on to
            lens.finish(logits, replays=self.replays)
        for note in form.rewriting.notes(name for _, name in lens.used):
            self.notes.add(note)
        return logits

    def once(self, x: Tensor) -> Tensor:
        """The logits of one pass of x."""
        form = self.form
        return self.forward(form.ready(x), form, form.lens())

    @property
    def learns(self) -> bool:
        """Whether the first pass is preceded by one that is watched for layers to fold."""
        folds = self.form.rewriting.folds
        return folds is not None and folds.unknown and not self.form.compiled

    def first(self, x: Tensor) -> Tensor:
        """The logits of the first pass, in the form in which it works, and folded."""
        if self.form.compiled:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        if self.learns:
            self.passed("watched", self._watch, x, whole=True)
        return self.passed("first", self.once, x, whole=True)

    def _watch(self, x: Tensor) -> None:
        form, folds = self.form, self.form.rewriting.folds
        if folds is not None:  # or else it was left
            watch = Watch(folds)
            self.forward(form.ready(x), form, form.rewriting.lens(watch))
            folds.learn(watch)
            self.notes.add(f"folded {len(folds)} BatchNorm")

    def logits(self, x: Tensor) -> Tensor:
        """The mean logits of `eot` passes of x; a step of `passed`."""
        form, passes = self.form, self.options.eot
        x = form.ready(x)
        logits = self.forward(x, form, form.lens())
        for _ in range(passes - 1):
            logits = logits + self.forward(x, form, form.lens())
        return logits if passes == 1 else logits / passes

    def gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, *, loss: losses.Loss, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`; a step of `passed`."""
        agreed = False
        while not agreed:
            form = self.form
            lens = form.lens()
            with self._leaf(x, form) as leaf:
                attached = self.forward(leaf, form, lens)
                # copied, since they may be a part of x itself
                logits = attached.detach().clone()
                value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
                gradient = self.backward(form, attached, leaf, by_logits)
            agreed = compared(self, tuple(lens.used) if lens else (), x.detach(), by_logits, gradient)
        return value, logits, gradient if direction and may_be_narrow(gradient, x) else gradient.to(x.dtype)

    def jacobian(self, x: Tensor, directions: Tensor | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """See `Frozen.jacobian`; a step of `passed`."""
        while True:
            # a compiled backward frees what the next one needs
            form = self.form.without_compiler().without_functions() if self.form.compiled else self.form
            leaf, lens = form.ready(x).detach().requires_grad_(), form.lens()
            attached = self.forward(leaf, form, lens)
            for _ in range(self.options.eot - 1):
                attached = attached + self.forward(leaf, form, form.lens())
            attached = attached / self.options.eot if self.options.eot > 1 else attached
            logits = attached.detach()
            chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
            gradients = x.new_empty(len(x), chosen.shape[1], *x.shape[1:])
            for place, by_logits in enumerate(chosen.unbind(1)):
                gradients[:, place] = self.backward(form, attached, leaf, by_logits, retain_graph=True)
            # one of them, where there is one
            by_logits, gradient = chosen[:, :1].sum(1), gradients[:, :1].sum(1)
            if compared(self, tuple(lens.used) if lens else (), x, by_logits, gradient):
                return logits, gradients

    def backward(
        self, form: Form, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False
    ) -> Tensor:
        """`pull` in the form's precision; in float32 where that is float16, which would underflow."""
        # what a checkpoint computes again is rewritten as before
        with form.precisely(leaf.device.type), form.lens() or nullcontext():
            if torch.float16 not in (form.weights, form.autocast):
                return pull(attached, leaf, by_logits, retain_graph, form.whole)
            # samples that may mix have one scale
            apart = self.room is not None and isinstance(form.model, nn.Module)
            return pull_scaled(attached, leaf, by_logits, retain_graph, apart, form.whole)

    def pull(self, form: Form, x: Tensor, by_logits: Tensor) -> Tensor:
        """The gradients [B, ...] of by_logits [B, K] @ logits at x, in that form."""
        with self._leaf(x, form) as leaf:
            attached = self.forward(leaf, form, form.lens())
            return self.backward(form, attached, leaf, by_logits.to(attached.dtype))

    @contextmanager
    def _leaf(self, x: Tensor, form: Form) -> Iterator[Tensor]:
        """`x`, ready for that form, for a graph that ends inside."""
        x, dtype = form.layout(x).detach(), form.weights or x.dtype
        if x.device.type == "cpu" and x.dtype is not dtype:
            with self._scratch.cast(x, dtype) as narrow:
                yield narrow.requires_grad_()
        else:
            yield x.to(dtype).detach().requires_grad_()

    def captured(
        self, step: Callable[..., Gradient], x: Tensor, *rows: Tensor | None, key: Hashable
    ) -> Gradient | None:
        """passed("gradient", step, x, *rows) by a CUDA graph; None where there is none.

        key: says what the step depends on besides.
        """
        # rows of another shape are refused by the step itself
        if not len(x) or any(each is not None and each.shape != x.shape[:1] for each in rows):
            return None
        once = partial(self.passed, "gradient", step)
        return self.replayed(lambda graphs: replayed_gradient(graphs, once, key, x, *rows))

    def replayed(self, run: Callable[[Graphs], T]) -> T | None:
        """run(graphs) where CUDA graphs were asked for; None elsewhere, and inside one of them.

        Where a capture fails, the twin goes on without graphs, which says None as well.
        """
        graphs = self.graphs
        if graphs is None or graphs.aside:
            return None
        try:
            return run(graphs)
        except InputError:  # on any path
            raise
        except Exception as error:  # what a capture does not allow raises anything
            why = first_line(error)
        self._leave_graphs(why)
        return None

    def _leave_graphs(self, why: str) -> None:
        self.graphs = None
        self.notes.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    @property
    def replays(self) -> bool:
        """Whether this thread is in a step of a graph."""
        return self.graphs is not None and self.graphs.replays

    def unreplayed(self) -> AbstractContextManager[None]:
        """No graph is asked for inside."""
        return nullcontext() if self.graphs is None else self.graphs.set_aside()

    def knows(self, x: Tensor) -> bool:
        """Whether gradients of so many rows like x were compared with the model's."""
        return not (self.differs or self.form.rewriting) or self.trusted.knows_size(x)

    def fits(self, x: Tensor) -> int:
        """How many rows of x are not known to be too many for the memory of a gradient."""
        return len(x) if self.room is None else self.room.most("gradient", x)

    def probes(self) -> int:
        """The samples that parts of the twin have passed through others so far, to estimate a gradient.

        Such a part keeps their number in `gradient_probes`.
        """
        return sum(part.gradient_probes for part in self.probing)


def first_line(error: Exception) -> str:
    """Of its message; its type where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__
