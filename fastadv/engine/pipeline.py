"""The one pipeline by which batches pass a search copy, and what it leaves where a pass fails."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv.engine.copying.fold import Refused
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.copying.twin import take_values
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.form import COMPILED, Form, uncompiled
from fastadv.engine.graph import Gradient, Graphs, Rows, Step
from fastadv.engine.guard import HALVES, Trusted, allowance, difference
from fastadv.engine.layout import lay_out
from fastadv.engine.parts import PROBE, Parts, mixes_rows
from fastadv.engine.precision import Options
from fastadv.engine.prepared import Model
from fastadv.engine.rewrite import Lens
from fastadv.engine.room import GRADIENT, VERDICT, Room, cut, joined, ran_out, room_of, slices
from fastadv.errors import InputError, NoGradientError
from fastadv.rng import generators_kept

T = TypeVar("T")
Values = tuple[nn.Module, nn.Module]  # the model, and a copy that is to follow it

log = logging.getLogger("fastadv")

# rows that tell whether they depend on each other, no multiple of a usual number; fewer where memory runs out
SOME = (7, 3, 2)
CAPTURED = "captured as CUDA graphs"  # a note
AGAIN = "passed again, after the model failed once ({})"


class Notes:
    """Texts for `Frozen.notes`."""

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        self.texts = texts

    def add(self, note: str) -> None:
        if note not in self.texts:
            self.texts = (*self.texts, note)

    def warn(self, note: str, instead_of: str = "") -> None:
        """Take a note that the user should see; `instead_of` is one that no longer holds."""
        self.texts = (*(text for text in self.texts if text != instead_of), note)
        log.warning("freeze: %s", note)


class Pipeline:
    """A model in one `form` after another: where a pass fails, a simpler one replaces it, with one note."""

    def __init__(
        self,
        form: Form,
        given: CheckedModel,
        notes: Notes,
        *,
        source: Model,
        options: Options,
        as_given: Form,
        narrow: bool = False,
        values: Values | None = None,
    ) -> None:
        """Start from `form`; `narrow`: round more once compared; `values`: of a copy that follows."""
        self.given, self.notes, self.source, self.options = given, notes, source, options
        self.as_given, self.narrow, self.values = as_given, narrow, values
        self._folds = form.rewriting.folds
        # what gradients are compared with: the model as given, with torch's own mistake in single rows mended
        others = (name for name in form.rewriting.names if name != NORMS.name)
        self.reference = replace(as_given, rewriting=form.rewriting.without(*others))
        self.lock = RLock()
        # samples passed to compare and to measure, beyond those that a caller passes
        self.compared_forwards = self.compared_backwards = 0
        # dtypes and shapes of batches in whose passes without a gradient nothing is rewritten
        self.bare: set[tuple[torch.dtype, torch.Size]] = set()
        self.graphs = Graphs() if options.cuda_graph else None
        self.use(form)
        # samples whose statistics are those of their batch must pass together
        mixed = isinstance(form.model, nn.Module) and mixes_rows(form.model)
        self.room: Room | None = None if mixed else room_of(source)
        self._rows_apart = False if mixed else None
        if mixed and self.graphs is not None:
            self._leave_graphs("a BatchNorm takes statistics of the batch, which spare rows would change")

    def use(self, form: Form) -> None:
        """Compute in that form from now on."""
        before = getattr(self, "form", None)
        if before is None or form.model is not before.model or form.weights != before.weights:
            self.trusted = Trusted()
        elif form.channels_last != before.channels_last and isinstance(form.model, nn.Module):
            lay_out(form.model, form.channels_last)
            if self._folds is not None:
                lay_out(self._folds.weights(), form.channels_last)
        self.form, self.scoring, self.bare = form, self._for_scores(form), set()
        # of a function nothing is known, and compiled code is for one shape
        whole = form.compiled or not isinstance(form.model, nn.Module)
        self.parts = None if whole else Parts(cast(nn.Module, form.model), "winograd" in form.rewriting.names)
        if self.graphs is not None:  # what was captured is another form
            self.graphs.forget()

    def _for_scores(self, form: Form) -> Form:
        """Return the form for passes without a gradient: half precision does not tell their losses apart."""
        return self.as_given if form.weights in HALVES else form.scoring

    def use_given(self) -> None:
        self.narrow = False
        self.use(self.as_given)

    def use_narrow(self) -> None:
        self.narrow = False
        self.use(self.form.narrowed(self.options))

    def refresh(self) -> None:
        if self.values is None or uncompiled(self.form.model) is not self.values[1]:
            return
        with torch.inference_mode(False), torch.no_grad():
            origin = take_values(*self.values)
            for pair in self.form.rewriting.folds or ():
                pair.take(origin)

    def count_compared(self, forwards: int, backwards: int = 0) -> None:
        self.compared_forwards += forwards
        self.compared_backwards += backwards

    @property
    def plain(self) -> bool:
        """Whether its logits are those of the model as given, to the last bit."""
        return not self.differs and not self.narrow and self.form.rewriting.exact

    @property
    def differs(self) -> bool:
        """Whether it is more than the model as given with some functions rewritten."""
        return self.form.model is not self.as_given.model or self.form.tf32

    def passed(self, kind: str, step: Callable[..., T], x: Tensor, *rows: Any, whole: bool = False) -> T:
        """Return step(x, *rows), of parts in turn unless `whole`; each `kind` has room of its own."""
        todo, made = slices(len(x), len(x) if whole else self._rows_at_once(kind, x)), list[T]()
        alone = len(todo) == 1
        while todo:
            given: tuple[Any, ...] = (x, *rows) if alone else (x[todo[0]], *cut(todo[0], *rows))
            form, full = self.form, False
            try:
                made.append(step(*given))
            except Refused as refused:
                self._unfold(refused)
                continue
            except Exception as error:  # compilers and models raise anything
                full = ran_out(error)
                final = (whole or self.room is None or len(given[0]) < 2) if full else kind == VERDICT
                if final or isinstance(error, InputError | NoGradientError):
                    raise
                if not full:
                    with self.lock:
                        if self.form is not form:  # another thread has left something
                            continue
                        made.append(self._mended(step, given, error))
            # only here: the error holds on to what the pass had in memory
            if not full:
                todo = todo[1:]
            elif self.rows_apart(x) and self.room is not None:  # or else it is to fail again
                todo, alone = self.room.halved(kind, x, todo), False
        return made[0] if len(made) == 1 else joined(made)

    def _rows_at_once(self, kind: str, x: Tensor) -> int:
        """Return how many rows pass together: as many as are fastest, and known to fit."""
        rows, parts = len(x), self.parts
        splits = kind != VERDICT and parts is not None and parts.worth_splitting(x)
        if splits and parts is not None and self.rows_apart(x):
            rows = self._usual(parts, x[:PROBE])
        return rows if self.room is None else min(rows, self.room.most(kind, x))

    def rows_apart(self, x: Tensor) -> bool:
        """Return whether the rows of a batch may pass in parts; two passes of a few rows of x tell, once."""
        if self._rows_apart is None and len(x) <= SOME[0] // 2:
            return True  # too few to tell, and no answer for other batches
        if self._rows_apart is None:
            with self.lock:
                why = None
                for some in SOME:
                    try:
                        why = self._mixing(x[:some], some // 2)
                        break
                    except Exception as error:
                        if not ran_out(error):
                            raise
                self._rows_apart = why is None
                if why is not None:
                    self.room = None
                    self.notes.add(f"batches pass whole: {why}")
                    if self.graphs is not None:
                        self._leave_graphs(why)
        return bool(self._rows_apart)

    def _mixing(self, few: Tensor, kept: int) -> str | None:
        """Return why the first `kept` of a few rows do not pass alike among others; None where they do."""
        made = []
        for rows in (few, torch.cat([few[:kept], 0.25 + 0.5 * few[kept:].flip(-1)]).to(few.dtype)):
            with torch.no_grad(), generators_kept(rows.device), self.as_given.precisely(rows.device.type):
                self.count_compared(len(rows))
                try:
                    made.append(self.given(self.as_given.ready(rows), stays=True)[:kept])
                except Exception as error:  # models of one batch size raise anything
                    if ran_out(error) or isinstance(error, InputError):
                        raise
                    return f"the model refused {len(few)} rows ({first_line(error)})"
        finite = made[0].isfinite().all(1) & made[1].isfinite().all(1)
        one, other = made[0][finite], made[1][finite]
        # the same kernels meet the same values: only sums in no fixed order may differ
        if not len(one) or difference(one, other) <= allowance(one, [self.as_given.weights]) / 1000:
            return None
        return "the logits of a row depend on other rows"

    def full_batch(self, x: Tensor) -> int:
        """Return how many rows like x [B, ...] fill the cache in a pass; 0 where that is not known."""
        parts = self.parts
        if parts is None or not parts.may_split or self._rows_apart is False:
            return 0
        return self._usual(parts, x[:1].expand(PROBE, *x.shape[1:]))

    def _usual(self, parts: Parts, few: Tensor) -> int:
        """Return how many rows like `few` [PROBE, ...] to pass at once, which these pass to find out."""
        key = few.dtype, few.shape[1:], torch.get_num_threads()
        if key not in parts.usual:
            # a randomized model draws next what it would have drawn anyway
            find = partial(parts.at_once, self._probe)
            with generators_kept(few.device):
                parts.usual[key] = self.passed("probe", find, self.form.ready(few), whole=True)
        return parts.usual[key]

    def _probe(self, x: Tensor) -> Tensor:
        self.count_compared(len(x))
        return self.once(x)

    def _mended(self, step: Callable[..., T], given: tuple[Any, ...], error: Exception) -> T:
        """Return step(*given) without what it fails with, from now on; `error` if nothing helps."""
        form, narrow, why = self.form, self.narrow, first_line(error)
        try:
            made = self.unfolding(step, *given)
        except Exception as again:
            if ran_out(again):
                raise
        else:
            self.notes.add(AGAIN.format(why))
            return made
        for note, simpler in form.simpler(why):
            self.use(simpler)
            try:
                made = self.unfolding(step, *given)
            except Exception:
                self.use(form)
                continue
            if form.compiled and not simpler.compiled:
                self.notes.warn(f"{note} ({why})", instead_of=COMPILED)
            else:
                self.notes.add(f"{note} ({why})")
            return made
        if self.differs or form.rewriting:
            self.use_given()
            try:
                made = self.unfolding(step, *given)
            except Exception:
                self.narrow = narrow
                self.use(form)
            else:
                self.notes.warn(left_out(None, f"the search copy failed ({why})"))
                return made
        raise error

    def leave_culprit(self, agrees: Callable[[], bool]) -> str | None:
        """Leave what is wrong, one thing if that is enough, and return its name; None where all had to go."""
        form, names = self.form, self.form.rewriting.names

        def right(fewer: Form) -> bool:
            self.use(fewer)
            try:
                return agrees()
            except Exception as error:
                if ran_out(error) or isinstance(error, InputError | NoGradientError):
                    self.use(form)
                    raise
                return False  # as without views in channels-last layout

        for name in names:
            if right(form.without(name)):
                return name
        if len(names) > 1 and right(form.without(*names)):
            left = set(names)
            for name in names:  # some of them may be right
                if right(form.without(*left - {name})):
                    left -= {name}
            self.use(form.without(*left))
            return " and ".join(name for name in names if name in left)
        if form.compiled and right(form.without_compiler()):
            return COMPILED
        self.use_given()
        return None

    def unfolding(self, step: Callable[..., T], *given: Any) -> T:
        """Return step(*given); a folded pair that refuses it is no longer folded."""
        while True:
            try:
                return step(*given)
            except Refused as refused:
                self._unfold(refused)

    def _unfold(self, refused: Refused) -> None:
        folds = self.form.rewriting.folds
        if folds is not None and folds.refuse(refused.pair):
            why = "whose result is not read by its BatchNorm alone"
            self.notes.add(f"not folded: {refused.pair.name}, {why}")

    def forward(self, x: Tensor, form: Form, lens: Lens | None) -> Tensor:
        """Return the logits of x, which is ready for that form, through `lens`."""
        with form.precisely(x.device.type):
            logits = self.given(x, form.model, lens)
        if lens is not None:
            # a graph may hold on to what it records
            lens.finish(logits, replays=self.replays)
            for note in form.rewriting.notes(name for _, name in lens.used):
                self.notes.add(note)
        return logits if logits.requires_grad else logits.clone()  # as what stays

    def once(self, x: Tensor) -> Tensor:
        """Return the logits of one pass of x, to compare them."""
        form = self.form
        return self.forward(form.ready(x), form, form.lens())

    def captured(
        self,
        step: Callable[..., Gradient],
        x: Tensor,
        y: Tensor | None,
        targets: Tensor | None,
        key: Hashable,
    ) -> Gradient | None:
        """Return the passed step by the CUDA graph of `key`; None where there is none."""
        # rows of another shape are refused by the step itself
        if not len(x) or any(each is not None and each.shape != x.shape[:1] for each in (y, targets)):
            return None
        if not self.rows_apart(x):  # spare rows would change them
            return None
        wanted = "value", "logits", "gradient"

        def make(rows: Rows) -> Step:
            def once() -> None:
                made = self.passed(GRADIENT, step, rows["x"], rows.get("y"), rows.get("targets"))
                rows.update(zip(wanted, made, strict=True))

            return once

        given = {"x": x, "y": y, "targets": targets}
        return self.replayed(lambda graphs: cast(Gradient, (*graphs(key, given, make, wanted),)))

    def replayed(self, run: Callable[[Graphs], T]) -> T | None:
        """Return run(graphs); None without CUDA graphs, inside one, and once a capture has failed."""
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
        return self.graphs is not None and self.graphs.replays


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def left_out(name: str | None, why: str) -> str:
    """Return the note for what was left; None stands for all."""
    return f"fell back to the model as given: {why}" if name is None else f"not {name}: {why}"
