"""The search twin of a frozen model: how a batch passes it, and what it does where a faster way fails."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.engine.closures import ORIGINAL
from fastadv.engine.fold import estimates_gradients
from fastadv.engine.graph import Graphs, replayed_gradient
from fastadv.engine.notes import Notes
from fastadv.engine.options import Options
from fastadv.engine.parts import PROBE, Parts, mixes_rows
from fastadv.engine.precision import tf32
from fastadv.engine.pull import pull, pull_scaled
from fastadv.engine.room import Room, cut, joined, ran_out, room_of, slices
from fastadv.engine.scratch import Scratch
from fastadv.engine.twin import unwrap
from fastadv.errors import InputError
from fastadv.ops._step import may_be_narrow

log = logging.getLogger("fastadv")

Model = Callable[[Tensor], Tensor]
Gradient = tuple[Tensor, Tensor, Tensor]  # loss [B], logits [B, K], gradient like x
T = TypeVar("T")

COMPILED, CAPTURED = "compiled", "captured as CUDA graphs"  # notes


class SearchTwin:
    """A model in the layout and precision that are fastest.

    Passes go in parts where that is faster, and in smaller ones where memory runs out. Where the compiler, a
    capture or the layout fails, the twin goes on without, from then on, and says so.

    ask: gives the checked logits of a model.
    """

    def __init__(
        self,
        model: Model,
        ask: Callable[[Model, Tensor], Tensor],
        notes: Notes,
        *,
        source: Model,
        options: Options,
        dtype: torch.dtype | None,
        channels_last: bool,
        autocast: torch.dtype | None,
    ) -> None:
        self._ask, self._notes, self._source, self._options = ask, notes, source, options
        self.channels_last, self.autocast, self.tf32 = channels_last, autocast, False
        self._scratch = Scratch()
        self.graphs = Graphs() if options.cuda_graph else None
        self.use(model, dtype)
        # samples whose statistics are those of their batch must pass together
        mixed = isinstance(model, nn.Module) and mixes_rows(model)
        self.room: Room | None = None if mixed else room_of(source)
        if mixed and self.graphs is not None:
            self._without_graphs("a BatchNorm takes statistics of the batch, which spare rows would change")

    def use(self, model: Model, dtype: torch.dtype | None) -> None:
        """Let `model` be the twin, its weights in `dtype`."""
        self.model, self._weights = model, dtype
        parts = model.modules() if isinstance(model, nn.Module) else ()
        self._probing: list[Any] = [part for part in parts if estimates_gradients(part)]
        self._parted = self._parts_of(model)
        if self.graphs is not None:  # what was captured is the former twin
            self.graphs = Graphs()

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision in which it computes; None where its weights have not exactly one."""
        return self.autocast or self._weights

    @property
    def rounds(self) -> torch.dtype | str | None:
        """The format in which it computes, where that is not the one of its weights."""
        return "tf32" if self.tf32 else self.autocast

    def plainly(self) -> None:
        """Compute in the format and layout of its weights from now on."""
        self.autocast, self.tf32, self.channels_last = None, False, False

    def layout(self, x: Tensor) -> Tensor:
        """`x` in the memory layout it prefers; no copy where it already has it."""
        if self.channels_last and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        return x.contiguous()

    def ready(self, x: Tensor) -> Tensor:
        """`x` in its layout and precision."""
        return self.layout(x).to(self._weights or x.dtype)

    def once(self, x: Tensor, compiled: bool = True) -> Tensor:
        """The logits of one pass of all of x, which is `ready`."""
        model = self.model if compiled else _uncompiled(self.model)
        if self.autocast is None:
            with self._products():
                return self._ask(model, x)
        # the cache would keep stale casts of weights that are being trained
        with torch.autocast(x.device.type, dtype=self.autocast, cache_enabled=False):
            return self._ask(model, x)

    def _products(self) -> AbstractContextManager[None]:
        return tf32() if self.tf32 else nullcontext()

    def tried(self, x: Tensor) -> Tensor:
        """`once` for the first time: in the layout in which it works."""
        if _uncompiled(self.model) is not self.model:
            log.warning("freeze: compiling; that may take a minute, and less the next time")
        return self._or_uncompiled(partial(self._in_any_layout, x))

    def logits(self, x: Tensor) -> Tensor:
        """The mean logits of `eot` passes of x, which is `ready`."""
        return self._in_parts(self._mean, "logits", x)

    def attached(self, leaf: Tensor) -> Tensor:
        """The same in one graph with `leaf`, which can be pulled back through more than once."""
        # a compiled backward frees what the next one needs
        return self._mean_of_passes(leaf, compiled=False)

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
            why = _first_line(error)
        self._without_graphs(why)
        return None

    def _without_graphs(self, why: str) -> None:
        self.graphs = None
        self._notes.warn(f"not {CAPTURED}: {why}", instead_of=CAPTURED)

    def unreplayed(self) -> AbstractContextManager[None]:
        """No graph is asked for inside."""
        return nullcontext() if self.graphs is None else self.graphs.set_aside()

    def gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`."""

        def whole(x: Tensor, y: Tensor | None, targets: Tensor | None) -> Gradient:
            return self._or_uncompiled(partial(self._gradient_at_once, x, y, loss, targets, direction))

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
        with self._leaf(x) as leaf:
            attached = self.once(leaf)
            # copied, since they may be a part of x itself
            logits = attached.detach().clone()
            value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
            gradient = self.pulled(attached, leaf, by_logits)
        if direction and may_be_narrow(gradient, x):
            return value, logits, gradient
        return value, logits, gradient.to(x.dtype)

    @contextmanager
    def _leaf(self, x: Tensor) -> Iterator[Tensor]:
        """`x`, `ready`, for a graph that ends inside."""
        x, dtype = self.layout(x).detach(), self._weights or x.dtype
        if x.device.type == "cpu" and x.dtype is not dtype:
            with self._scratch.cast(x, dtype) as narrow:
                yield narrow.requires_grad_()
        else:
            yield x.to(dtype).detach().requires_grad_()

    def pulled(self, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """`pull` in the twin's precision; in float32 where that is float16, which would underflow."""
        if torch.float16 not in (self._weights, self.autocast):
            with self._products():
                return pull(attached, leaf, by_logits, retain_graph)
        # samples that may mix have one scale
        apart = self.room is not None and isinstance(self.model, nn.Module)
        return pull_scaled(attached, leaf, by_logits, retain_graph, apart)

    def _mean(self, x: Tensor) -> Tensor:
        return self._or_uncompiled(partial(self._mean_of_passes, x))

    def _mean_of_passes(self, x: Tensor, compiled: bool = True) -> Tensor:
        passes = self._options.eot
        logits = self.once(x, compiled)
        for _ in range(passes - 1):
            logits = logits + self.once(x, compiled)
        return logits if passes == 1 else logits / passes

    def _or_uncompiled(self, run: Callable[[], T]) -> T:
        """run(), without the compiler from now on where it fails with it."""
        plain = _uncompiled(self.model)
        try:
            return run()
        except Exception as error:  # compilers raise anything
            if plain is self.model or ran_out(error) or isinstance(error, InputError):
                raise
            why = _first_line(error)
        self.use(plain, self._weights)
        self._notes.warn(f"not {COMPILED}: the compiled search twin failed ({why})", instead_of=COMPILED)
        return run()

    def _in_any_layout(self, x: Tensor) -> Tensor:
        try:
            return self.once(self.ready(x))
        except RuntimeError:
            # `view` after a convolution refuses channels-last activations
            if not self.channels_last or not isinstance(self.model, nn.Module):
                raise
            with self._contiguous(self.model):
                return self.once(self.ready(x))

    @contextmanager
    def _contiguous(self, model: nn.Module) -> Iterator[None]:
        """The twin in that layout, from now on unless it fails there as well."""
        self.channels_last = False
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        try:
            yield
        except RuntimeError:
            self.channels_last = True
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            raise
        self._notes.add("not channels-last: the model uses view")

    def _parts_of(self, model: Model) -> Parts | None:
        """None for a function, of which nothing is known, and for compiled code, which is for one shape."""
        known = isinstance(self._source, nn.Module) and isinstance(model, nn.Module)
        if self._options.compile or not known:
            return None
        return Parts(cast(nn.Module, self._source), cast(nn.Module, model))

    def _parts(self, x: Tensor) -> list[slice]:
        """The rows that pass together."""
        rows = max(len(x), 1)
        if self._parted is not None and self._parted.worth_splitting(x):
            # not counted: it is done once for a model, and the cost of a call is not that of what came before
            rows = self._parted.at_once(self.once, self.ready(x[:PROBE]))
        return slices(len(x), rows)


def _uncompiled(model: Model) -> Model:
    return unwrap(model) if isinstance(model, nn.Module) else getattr(model, ORIGINAL, model)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
