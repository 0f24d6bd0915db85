"""The search twin of a frozen model: how a batch passes it, and what it does where a faster way fails."""

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.compared import compared
from fastadv.engine.copying.fold import Folds, Refused, Watch, estimates_gradients
from fastadv.engine.graph import Graphs, replayed_gradient
from fastadv.engine.layout import laid_out, lay_out
from fastadv.engine.lock import Lock
from fastadv.engine.notes import Notes
from fastadv.engine.options import Options
from fastadv.engine.parts import PROBE, Parts, mixes_rows
from fastadv.engine.precision import no_autocast, tf32
from fastadv.engine.pull import pull, pull_scaled
from fastadv.engine.rewrite import Lens, Rewriting
from fastadv.engine.room import Room, cut, joined, ran_out, room_of, slices
from fastadv.engine.scratch import Scratch
from fastadv.engine.simpler import first_line, simpler, uncompiled
from fastadv.engine.trusted import Trusted
from fastadv.errors import InputError, NoGradientError
from fastadv.ops._step import may_be_narrow

log = logging.getLogger("fastadv")

Model = Callable[[Tensor], Tensor]
Gradient = tuple[Tensor, Tensor, Tensor]  # loss [B], logits [B, K], gradient like x
T = TypeVar("T")

CAPTURED = "captured as CUDA graphs"  # a note


class SearchTwin:
    """A model in the layout and precision that are fastest.

    Passes go in parts where that is faster, and in smaller ones where memory runs out. Where the compiler, a
    capture or the layout fails, the twin goes on without, from then on, and says so.

    ask: gives the checked logits of a model.
    """

    def __init__(
        self,
        model: Model,
        given: Model,
        ask: Callable[[Model, Tensor], Tensor],
        notes: Notes,
        *,
        source: Model,
        options: Options,
        dtype: torch.dtype | None,
        channels_last: bool,
        autocast: torch.dtype | None,
        rewriting: Rewriting,
    ) -> None:
        self._given, self._ask, self.notes, self._source, self._options = given, ask, notes, source, options
        self.channels_last, self.autocast, self.tf32 = channels_last, autocast, False
        self.rewriting, self._given_dtype = rewriting, dtype
        self._scratch, self.lock = Scratch(), Lock()
        self.whole = False  # whether a gradient is one to all leaves, as reentrant checkpoints want it
        self.graphs = Graphs() if options.cuda_graph else None
        self.use(model, dtype)
        self.trusted = Trusted.of(source, given, options)
        rewriting.restore(rewriting.off | self.trusted.off)
        # samples whose statistics are those of their batch must pass together
        mixed = isinstance(model, nn.Module) and mixes_rows(model)
        self.room: Room | None = None if mixed else room_of(source)
        if mixed and self.graphs is not None:
            self._without_graphs("a BatchNorm takes statistics of the batch, which spare rows would change")

    def use(self, model: Model, dtype: torch.dtype | None) -> None:
        """Let `model` be the twin, its weights in `dtype`."""
        self.model, self.weights = model, dtype
        self.compiled, self.rewrote = uncompiled(model) is not model, False
        parts = model.modules() if isinstance(model, nn.Module) else ()
        self._probing: list[Any] = [part for part in parts if estimates_gradients(part)]
        self._parted = self._parts_of(model)
        self.trusted = Trusted()
        if self.graphs is not None:  # what was captured is the former twin
            self.graphs = Graphs()

    def use_given(self) -> None:
        """Let the model as given be the twin, without any rewrite."""
        self.rewriting.switch_off()
        self.autocast, self.tf32, self.channels_last = None, False, False
        self.use(self._given, self._given_dtype)

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision in which it computes; None where its weights have not exactly one."""
        return self.autocast or self.weights

    @property
    def rounds(self) -> torch.dtype | str | None:
        """The format in which it computes, where that is not the one of its weights."""
        return "tf32" if self.tf32 else self.autocast

    @property
    def exact(self) -> bool:
        """Whether its logits are those of the model as given, to the last bit."""
        return self.model is self._given and not self.rounds and self.rewriting.exact

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout it prefers; no copy where it already has it."""
        return laid_out(x, self.channels_last)

    def ready(self, x: Tensor) -> Tensor:
        """`x` in its layout and precision."""
        return self.layout(x).to(self.weights or x.dtype)

    def once(self, x: Tensor) -> Tensor:
        """The logits of one pass of all of x, which is `ready`."""
        while True:
            try:
                return self._seen(x, self._lens())
            except Refused as refused:
                self._unfold(refused)

    def _lens(self) -> Lens | None:
        """What a pass is seen through; None where it calls what the model calls, and in compiled code."""
        return self.rewriting.lens() if self.rewriting and not self.compiled else None

    def _seen(self, x: Tensor, lens: Lens | None, compiled: bool = True) -> Tensor:
        model = self.model if compiled else uncompiled(self.model)
        with self._precisely(x.device.type):
            if lens is None:
                return self._ask(model, x)
            try:
                with lens:
                    logits = self._ask(model, x)
            finally:
                self.rewrote = self.rewrote or bool(lens.used)
            # what a graph records it may hold on to
            lens.finish(logits, replays=self.replays)
        for note in self.rewriting.notes(name for _, name in lens.used):
            self.notes.add(note)
        return logits

    @contextmanager
    def _precisely(self, device: str) -> Iterator[None]:
        """Inside, a pass computes in the twin's precision, whatever autocast is on around it."""
        # the cache would keep stale casts of weights that are being trained
        cast = torch.autocast(device, dtype=self.autocast, cache_enabled=False) if self.autocast else None
        with cast or no_autocast(device), tf32() if self.tf32 else nullcontext():
            yield

    @property
    def learns(self) -> bool:
        """Whether the next pass that is `tried` is preceded by one that is watched for layers to fold."""
        folds = self.rewriting.folding
        return folds is not None and folds.unknown and not self.compiled

    def tried(self, x: Tensor) -> Tensor:
        """`once` for the first time: in the layout in which it works, and folded."""
        if self.compiled:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        folds = self.rewriting.folding
        if folds is not None and self.learns:
            self.safely(lambda: self._learn(folds, self.ready(x)))
            self.notes.add(f"folded {len(folds)} BatchNorm")
        return self.safely(lambda: self.once(self.ready(x)))

    def _learn(self, folds: Folds, x: Tensor) -> None:
        watch = Watch(folds)
        self._seen(x, self.rewriting.lens(watch))
        folds.learn(watch)

    def logits(self, x: Tensor) -> Tensor:
        """The mean logits of `eot` passes of x, which is `ready`."""
        return self._in_parts(self._mean, "logits", x)

    def attached(self, leaf: Tensor) -> tuple[Tensor, Hashable]:
        """The same in one graph with `leaf`, to be pulled through more than once, and what it rewrote."""
        lens, passes = self._lens(), self._options.eot
        # a compiled backward frees what the next one needs
        logits = self._seen(leaf, lens, compiled=False)
        for _ in range(passes - 1):
            logits = logits + self._seen(leaf, self._lens(), compiled=False)
        return (logits if passes == 1 else logits / passes), tuple(lens.used) if lens is not None else ()

    def captured(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """`gradient`, by CUDA graphs where they were asked for."""
        given, replayed = (x, y, loss, targets, direction), None
        fit = all(rows is None or rows.shape == x.shape[:1] for rows in (y, targets))  # or else are refused
        # a function may hold one value for each sample of the batch
        if len(x) and fit and not callable(loss):
            replayed = self.replayed(lambda graphs: replayed_gradient(graphs, self.gradient, *given))
        return self.gradient(*given) if replayed is None else replayed

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
        self._without_graphs(why)
        return None

    def _without_graphs(self, why: str) -> None:
        self.graphs = None
        self.notes.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    @property
    def replays(self) -> bool:
        """Whether this thread is in a step of a graph."""
        return self.graphs is not None and self.graphs.replays

    def unreplayed(self) -> AbstractContextManager[None]:
        """No graph is asked for inside."""
        return nullcontext() if self.graphs is None else self.graphs.set_aside()

    def gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`."""

        def whole(x: Tensor, y: Tensor | None, targets: Tensor | None) -> Gradient:
            return self.safely(partial(self._gradient_at_once, x, y, loss, targets, direction))

        if callable(loss):  # a function may hold one value for each sample of the batch
            return whole(x, y, targets)
        return self._in_parts(whole, "gradient", x, y, targets)

    def _in_parts(self, run: Callable[..., T], kind: str, x: Tensor, *others: Tensor | None) -> T:
        """run(x, *others), in the parts that are fastest."""
        parts = self._parts(x)
        if len(parts) == 1:
            return self.fitted(run, kind, x, *others)
        return joined([self.fitted(run, kind, x[part], *cut(part, *others)) for part in parts])

    def fitted(self, run: Callable[..., T], kind: str, x: Tensor, *others: Tensor | None) -> T:
        """run(x, *others), in halves where memory runs out."""
        return run(x, *others) if self.room is None else self.room.fitted(run, kind, x, *others)

    def fits(self, x: Tensor) -> int:
        """How many rows of x are not known to be too many for the memory of a gradient."""
        return len(x) if self.room is None else self.room.most("gradient", x)

    def probes(self) -> int:
        """The samples that parts of the twin have passed through others so far, to estimate a gradient.

        Such a part keeps their number in `gradient_probes`.
        """
        return sum(part.gradient_probes for part in self._probing)

    def _gradient_at_once(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        lens = self._lens()
        with self._leaf(x) as leaf:
            attached = self._seen(leaf, lens)
            # copied, since they may be a part of x itself
            logits = attached.detach().clone()
            value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
            gradient = self.pulled(attached, leaf, by_logits)
        used = tuple(lens.used) if lens is not None else ()
        if not compared(self, used, x.detach(), by_logits, gradient):
            return self._gradient_at_once(x, y, loss, targets, direction)
        if direction and may_be_narrow(gradient, x):
            return value, logits, gradient
        return value, logits, gradient.to(x.dtype)

    def knows(self, x: Tensor) -> bool:
        """Whether gradients of so many rows like x were compared with the model's."""
        return not (self.differs or self.rewriting) or self.trusted.knows_size(x)

    @property
    def differs(self) -> bool:
        """Whether it is more than the model as given with some functions rewritten."""
        return self.model is not self._given or self.rounds is not None

    @property
    def estimates(self) -> bool:
        """Whether parts of it estimate gradients from logits, which draws decide."""
        return bool(self._probing)

    def pull(self, x: Tensor, by_logits: Tensor) -> Tensor:
        """The gradients [B, ...] of by_logits [B, K] @ logits at x."""
        with self._leaf(x) as leaf:
            return self.pulled(self.once(leaf), leaf, by_logits)

    def pull_plain(self, x: Tensor, by_logits: Tensor) -> Tensor:
        """The same without rewrites."""
        with self._leaf(x) as leaf:
            return self.pulled(self._seen(leaf, None), leaf, by_logits)

    def pull_given(self, x: Tensor, by_logits: Tensor) -> Tensor:
        """The same of the model as given."""
        leaf = x.contiguous().to(self._given_dtype or x.dtype).detach().requires_grad_()
        with no_autocast(x.device.type):
            attached = self._ask(self._given, leaf)
            return pull(attached, leaf, by_logits.to(attached.dtype), whole=self.whole)

    @contextmanager
    def _leaf(self, x: Tensor) -> Iterator[Tensor]:
        """`x`, `ready`, for a graph that ends inside."""
        x, dtype = self.layout(x).detach(), self.weights or x.dtype
        if x.device.type == "cpu" and x.dtype is not dtype:
            with self._scratch.cast(x, dtype) as narrow:
                yield narrow.requires_grad_()
        else:
            yield x.to(dtype).detach().requires_grad_()

    def pulled(self, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """`pull` in the twin's precision; in float32 where that is float16, which would underflow."""
        # what a checkpoint computes again is rewritten as before
        with self._precisely(leaf.device.type), self._lens() or nullcontext():
            if torch.float16 not in (self.weights, self.autocast):
                return pull(attached, leaf, by_logits, retain_graph, self.whole)
            # samples that may mix have one scale
            apart = self.room is not None and isinstance(self.model, nn.Module)
            return pull_scaled(attached, leaf, by_logits, retain_graph, apart, self.whole)

    def _mean(self, x: Tensor) -> Tensor:
        return self.safely(lambda: self._mean_of_passes(self.ready(x)))

    def _mean_of_passes(self, x: Tensor) -> Tensor:
        passes = self._options.eot
        logits = self.once(x)
        for _ in range(passes - 1):
            logits = logits + self.once(x)
        return logits if passes == 1 else logits / passes

    def safely(self, run: Callable[[], T]) -> T:
        """run(), with something simpler from now on where it fails: no compiler, layout, rewrites."""
        while True:
            try:
                return run()
            except Refused as refused:
                self._unfold(refused)
            except Exception as error:  # compilers and models raise anything
                if ran_out(error) or isinstance(error, InputError | NoGradientError):
                    raise
                with self.lock:
                    return simpler(self, run, error)

    def _unfold(self, refused: Refused) -> None:
        folds = self.rewriting.folds
        if folds is not None and folds.refuse(refused.pair):
            why = "whose result is not read by its BatchNorm alone"
            self.notes.add(f"not folded: {refused.pair.name}, {why}")

    def use_layout(self, channels_last: bool) -> None:
        """Lay out the copy's weights so from now on."""
        if self.channels_last != channels_last and isinstance(self.model, nn.Module):
            self.channels_last = channels_last
            lay_out(self.model, channels_last)

    def _parts_of(self, model: Model) -> Parts | None:
        """None for a function, of which nothing is known, and for compiled code, which is for one shape."""
        known = isinstance(self._source, nn.Module) and isinstance(model, nn.Module)
        if self._options.compile or not known:
            return None
        return Parts(
            cast(nn.Module, self._source), cast(nn.Module, model), "winograd" in self.rewriting.names
        )

    def _parts(self, x: Tensor) -> list[slice]:
        """The rows that pass together."""
        rows = max(len(x), 1)
        if self._parted is not None and self._parted.worth_splitting(x):
            # not counted: it is done once for a model, and the cost of a call is not that of what came before
            parted = self._parted
            rows = self.safely(lambda: parted.at_once(self.once, self.ready(x[:PROBE])))
        return slices(len(x), rows)
