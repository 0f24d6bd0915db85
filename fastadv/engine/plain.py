"""Plain: the model as given, in eval mode, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv._checks import check_count
from fastadv._torch import held_by
from fastadv._waiting import waits
from fastadv.engine.arguments import check_model, indices, labels_for
from fastadv.engine.bound import Ask, Bound
from fastadv.engine.capture import Captures, graphs_of, kind_of, passes_alike
from fastadv.engine.copying.inside import GRAD_MODE, RECURRENT, CheckedModel, mentions, reads_grad_mode
from fastadv.engine.copying.quick import eval_copy
from fastadv.engine.copying.twin import as_module
from fastadv.engine.cpu.norms import mend_parts
from fastadv.engine.parts import mixes_rows
from fastadv.engine.precision import no_autocast, with_gradient
from fastadv.engine.prepared import CleanPass, Counts, Directions, Loss, Model, Prepared
from fastadv.engine.pull import pull, pull_each
from fastadv.engine.replaced import in_words, replaced
from fastadv.engine.room import GRADIENT, VERDICT, Room, cut, joined, ran_out, room_of, slices

Gradient = tuple[Tensor, Tensor, Tensor]


class Plain(Prepared):
    """The model as given: its own forward in eval mode, and `autograd` to the input alone.

    It rewrites, compares and times nothing. What runs is a copy of the modules in eval mode, which shares all
    weights and follows them where they change in place. After any other change of the model make a new one,
    as each call of an attack does. Where memory runs out, a batch passes in halves.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; of a prepared one, its source.
        eot: passes of a randomized model over which logits, losses and gradients are averaged.
        counts: of a Frozen for which it answers.

    Raises:
        InputError: the model is neither a module nor a function, or is lazy.
    """

    halves = True  # whether batches may pass in parts

    def __init__(self, model: Model | Prepared, eot: int = 1, counts: Counts | None = None) -> None:
        source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module, dtype, device = as_module(source), None, None
        self._unmended: list[nn.Module] = []  # parts whose gradient of a single row torch may get wrong
        self._whole = False  # whether gradients are taken to all leaves, as reentrant checkpoints demand
        run = source
        self._by_grad_mode = mentions(source, GRAD_MODE)
        if module is not None:
            run, parts = eval_copy(module)
            dtype, device = _format(parts)
            self._by_grad_mode = any(map(reads_grad_mode, {type(part) for part in parts}))
            self._unmended = parts
        super().__init__(CheckedModel(run, dtype), source, check_count("eot", eot, 1), dtype, device)
        if counts is not None:
            self.counts = counts
        self._room: Room | None = None
        self._kinds: list[Any] = []  # what a graph depends on, once it was asked for
        self._notes: tuple[str, ...] = (in_words(told),) if (told := replaced(module)) else ()

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    @property
    def writes_into_x(self) -> bool:
        """Whether the model was seen to do so; it is given copies."""
        return self.checked.copies

    def add_note(self, note: str) -> None:
        self._notes = tuple(dict.fromkeys([*self._notes, note]))

    def describe(self) -> dict[str, Any]:
        return {"plain": True, "eot": self.eot}

    def _verdict(self, x: Tensor) -> Tensor:
        if parts := self._parts(VERDICT, x):
            return torch.cat([self._verdict(x[part]) for part in parts])
        try:
            return self.checked(x, stays=True)
        except Exception as error:
            if not self._may_halve(error, x):
                raise
        # only here: the error holds on to what the pass had in memory
        self._halve(VERDICT, x)
        return self._verdict(x)

    def __call__(self, x: Tensor) -> Tensor:
        made = [self._as_given(self._verdict, x) for _ in range(self.eot)]
        return made[0] if self.eot == 1 else sum(made[1:], made[0]) / self.eot

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False,
    ) -> Gradient:  # fmt: skip
        with with_gradient():
            x, y, targets = self._checked(x), indices("y", y), indices("targets", targets)
            y = labels_for(loss, y, targets)
            # a loss that is a function may hold one value for each sample of the batch
            if (parts := self._parts(GRADIENT, x)) and not callable(loss):
                rows = [cut(part, y, targets) for part in parts]
                return joined([
                    self.input_gradient(x[part], labels, loss, wanted, direction)
                    for part, (labels, wanted) in zip(parts, rows, strict=True)
                ])  # fmt: skip
            made: list[Gradient] = []
            try:
                with no_autocast(x.device.type):
                    for _ in range(self.eot):
                        leaf = self.leaf(x)
                        attached = self.checked(leaf)
                        # copied, since they may be a part of x itself
                        logits = attached.detach().clone()
                        value, by_logits = losses.loss_and_grad(
                            logits, cast(Tensor, y), loss, targets, direction and self.eot == 1
                        )
                        gradient = self._pull(leaf, attached, by_logits)
                        if gradient.dtype != x.dtype:
                            gradient = gradient.to(x.dtype)
                        self.count(len(x))
                        made.append((value, logits, gradient))
                return made[0] if self.eot == 1 else _means(made)
            except Exception as error:
                if callable(loss) or not self._may_halve(error, x):
                    raise
        self._halve(GRADIENT, x)  # as in `_verdict`
        return self.input_gradient(x, y, loss, targets, direction)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        with with_gradient(), no_autocast(x.device.type):
            x = self._checked(x)
            self.forwards += self.eot * len(x)
            leaf = self.leaf(x)
            attached = self.checked(leaf)
            for _ in range(self.eot - 1):
                attached = attached + self.checked(leaf)
            attached = attached / self.eot if self.eot > 1 else attached
            logits = attached.detach().clone()
            back = partial(self._pull, leaf, attached, retain_graph=True)
            _, gradients, _ = pull_each(x, logits, directions, reduce, back)
            self.backwards += self.eot * gradients.shape[:2].numel()
            return logits, gradients

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, otherwise: Prepared | None = None
    ) -> Ask | None:
        """Bind as `Prepared.bind`; where a pass fails, `otherwise` gives the gradient."""
        usual = self.eot == 1 and x.dtype == self.sees(x.dtype) == torch.float32 and not self._whole
        if not usual or torch.is_autocast_enabled(x.device.type) or self._parts(GRADIENT, x):
            return None
        general = (otherwise or self).input_gradient
        ask = partial(general, y=y, loss=loss, targets=targets, direction=True)
        return Bound(self.checked, self.leaf, self.count, ask, x, y, loss, targets)

    def captures(self, x: Tensor) -> Captures | None:
        if self.eot > 1 or not waits(x.device) or not isinstance(self.source, nn.Module):
            return None
        model = cast(nn.Module, self.model)
        if not self._kinds:
            self._kinds.append(kind_of(self.source))

        def alike() -> bool:
            # counters of its own would be those of a pass that nobody asked for
            probe = Plain(self.source, counts=self.counts)
            return isinstance(probe.model, nn.Module) and passes_alike(probe.model, probe, x)

        kind, held = self._kinds[0], None if model is self.source else model  # which holds its graphs
        return Captures(graphs_of(self.source), kind, held, alike) if kind else None

    def clean_pass(self, x: Tensor) -> CleanPass | None:
        # where the forward may answer otherwise if a gradient is followed, its verdict is a pass of its own
        if self.eot > 1 or self._by_grad_mode or not x.shape[0]:
            return None
        with with_gradient(), no_autocast(x.device.type):
            x = self._checked(x)
            if self._parts(GRADIENT, x):
                return None
            leaf = self.leaf(x)
            try:
                attached = self.checked(leaf)
            except Exception as error:
                if not ran_out(error):
                    raise
                return None
            self.forwards += x.shape[0]
            return _CleanPass(self, x, leaf, attached, attached.detach().clone())

    def leaf(self, x: Tensor) -> Tensor:
        """Return x as the model sees it, sharing its memory where it can, to follow a gradient to it."""
        if self._unmended and x.shape[0] == 1:
            mend_parts(self._unmended)
            self._unmended = []
        seen = self.sees(x.dtype)
        return (x if x.dtype == seen else x.to(seen)).detach().requires_grad_()

    def _pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        if by_logits.dtype != attached.dtype:
            by_logits = by_logits.to(attached.dtype)
        given = self.checked
        try:
            with given.differentiated():
                return pull(attached, leaf, by_logits, retain_graph, self._whole)
        except RuntimeError as error:
            whole = "use_reentrant" in str(error) and isinstance(self.model, nn.Module) and not self._whole
            if not (whole or RECURRENT in str(error)):
                raise
        self._whole |= whole  # the copy's weights ask for none; of a function's that is not known
        self.forwards += len(leaf)
        attached = given(leaf)
        with given.differentiated():
            return pull(attached, leaf, by_logits, retain_graph, self._whole)

    def _parts(self, kind: str, x: Tensor) -> list[slice]:
        """Return the parts in which x passes, where so many rows were too many for the memory before."""
        if not self.halves:
            return []
        self._room = room_of(self.source) if self._room is None else self._room
        most = self._room.most(kind, x)
        return [] if most >= x.shape[0] else slices(len(x), most)

    def _may_halve(self, error: Exception, x: Tensor) -> bool:
        """Return whether memory ran out, and no sample depends on the statistics of its batch."""
        mixed = isinstance(self.model, nn.Module) and mixes_rows(self.model)
        return self.halves and ran_out(error) and len(x) > 1 and not mixed

    def _halve(self, kind: str, x: Tensor) -> None:
        assert self._room is not None
        self._room.halved(kind, x, [slice(0, len(x))])


def _means(made: list[Gradient]) -> Gradient:
    value, logits, gradient = (sum(each[1:], each[0]) / len(made) for each in zip(*made, strict=True))
    return value, logits, gradient


def _format(parts: list[nn.Module]) -> tuple[torch.dtype | None, torch.device | None]:
    """Return the floating dtype of the weights, None unless it is one, and where the first tensor lies."""
    weights = [weight for part in parts for weight in held_by(part)[0].values() if weight is not None]
    dtypes = {weight.dtype for weight in weights if weight.is_floating_point()}
    buffers = (each for part in parts for each in held_by(part)[1].values() if each is not None)
    first = weights[0] if weights else next(buffers, None)
    return dtypes.pop() if len(dtypes) == 1 else None, None if first is None else first.device


@dataclass
class _CleanPass:
    plain: Plain
    x: Tensor
    leaf: Tensor
    attached: Tensor
    logits: Tensor

    def gradient(
        self, rows: Tensor | None, y: Tensor, loss: Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        plain, logits = self.plain, self.logits if rows is None else self.logits[rows]
        with with_gradient(), no_autocast(self.x.device.type):
            value, by_logits = losses.loss_and_grad(logits, y, loss, targets, direction)
            if rows is not None:
                by_logits = torch.zeros_like(self.logits).index_copy_(0, rows, by_logits.to(self.logits))
            try:
                # in the dtype that the model sees: half precision of x may hold less
                gradient = plain._pull(self.leaf, self.attached, by_logits)
                plain.backwards += len(self.x)
                return value, logits, gradient if rows is None else gradient[rows]
            except Exception as error:
                if callable(loss) or not plain._may_halve(error, self.x):
                    raise
        plain._halve(GRADIENT, self.x)  # as in `_verdict`
        self.attached = self.logits  # lets go of the graph
        return plain.input_gradient(self.x if rows is None else self.x[rows], y, loss, targets, direction)
