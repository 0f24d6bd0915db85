"""The one pipeline by which batches pass a search copy, in parts that fit."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv.engine.capture import in_step
from fastadv.engine.copying.fold import Refused
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.copying.twin import take_values
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.form import COMPILED, Form, uncompiled
from fastadv.engine.guard import HALVES, allowed, difference
from fastadv.engine.parts import PROBE, Parts, mixes_rows
from fastadv.engine.precision import Options
from fastadv.engine.prepared import Model
from fastadv.engine.rewrite import Lens
from fastadv.engine.room import VERDICT, Room, cut, joined, ran_out, room_of, slices
from fastadv.errors import InputError
from fastadv.rng import generators_kept
from fastadv.text import first_line

T = TypeVar("T")
Values = tuple[nn.Module, nn.Module]  # the model, and a copy that is to follow it

log = logging.getLogger("fastadv")

# rows that tell whether they depend on each other, no multiple of a usual number; fewer where memory runs out
SOME = (7, 3, 2)


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
    """A model in the `form` of its search; where that fails, the model as given, from then on."""

    def __init__(
        self, form: Form, given: CheckedModel, notes: Notes, *, source: Model, options: Options,
        as_given: Form, narrow: bool = False, values: Values | None = None,
    ) -> None:  # fmt: skip
        """Start from `form`; `narrow`: round more once it is folded; `values`: of a copy that follows."""
        self.given, self.notes, self.source, self.options = given, notes, source, options
        self.as_given, self.narrow, self.values = as_given, narrow, values
        # what gradients are compared with: the model as given, with torch's own mistake in single rows mended
        others = (name for name in form.rewriting.names if name != NORMS.name)
        self.reference = replace(as_given, rewriting=form.rewriting.without(*others))
        self.lock = RLock()
        self.left = False  # whether the model as given answers alone
        # samples passed to compare and to measure, beyond those that a caller passes
        self.compared_forwards = self.compared_backwards = 0
        self.use(form)
        # samples whose statistics are those of their batch must pass together
        mixed = isinstance(form.model, nn.Module) and mixes_rows(form.model)
        self.room: Room | None = None if mixed else room_of(source)
        self._rows_apart = False if mixed else None

    def use(self, form: Form) -> None:
        """Compute in that form from now on."""
        self.form, self.scoring = form, self._for_scores(form)
        # dtypes and shapes of samples, with a gradient or not, whose passes were compared with the model's
        self.compared = set[Hashable]()
        # dtypes and shapes of batches in whose passes without a gradient nothing is rewritten
        self.bare = set[Hashable]()
        # of a function nothing is known, and compiled code is for one shape
        whole = form.compiled or not isinstance(form.model, nn.Module)
        self.parts = None if whole else Parts(cast(nn.Module, form.model), "winograd" in form.rewriting.names)

    def _for_scores(self, form: Form) -> Form:
        """Return the form for passes without a gradient: half precision does not tell their losses apart."""
        return self.as_given if form.weights in HALVES else form.scoring

    def use_given(self) -> None:
        self.narrow = False
        self.use(self.as_given)

    def leave(self, why: str) -> None:
        """Search without the compiler from now on, or else on the model as given alone."""
        with self.lock:
            if self.form.compiled:
                self.use(self.form.without_compiler())
                self.notes.warn(f"not {COMPILED}: {why}", instead_of=COMPILED)
            elif not self.left:
                self.left = True
                self.use_given()
                self.notes.warn(f"fell back to the model as given: {why}")

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
            try:
                made.append(step(*given))
                todo = todo[1:]
                continue
            except Refused as refused:
                self._unfold(refused)
                continue
            except Exception as error:
                if whole or self.room is None or len(given[0]) < 2 or not ran_out(error):
                    raise
            # only here: the error holds on to what the pass had in memory
            if self.rows_apart(x) and self.room is not None:  # or else it is to fail again
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
        if not len(one) or difference(one, other) <= float(allowed(one, [self.as_given.weights])) / 1000:
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
            lens.finish(logits, replays=in_step())
            for note in form.rewriting.notes(lens.used):
                self.notes.add(note)
        return logits if logits.requires_grad else logits.clone()  # as what stays

    def once(self, x: Tensor) -> Tensor:
        """Return the logits of one pass of x, to compare them."""
        form = self.form
        return self.forward(form.ready(x), form, form.lens())
