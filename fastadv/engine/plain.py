"""Plain: the model as given, in eval mode, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastadv import losses
from fastadv._checks import check_count
from fastadv.engine.arguments import check_model, checked_directions, indices, labels_for
from fastadv.engine.copying.inside import CheckedModel
from fastadv.engine.copying.modes import in_training
from fastadv.engine.copying.twin import as_module, device_of, twin
from fastadv.engine.parts import mixes_rows
from fastadv.engine.precision import no_autocast
from fastadv.engine.prepared import CleanPass, Directions, Loss, Model, Prepared
from fastadv.engine.pull import pull
from fastadv.engine.replaced import in_words, replaced
from fastadv.engine.room import Room, in_parts, ran_out, room_of

Gradient = tuple[Tensor, Tensor, Tensor]


class Plain(Prepared):
    """The model as given: its own forward in eval mode, and `autograd` to the input alone.

    It copies no weights, rewrites, compares and times nothing. A model that is in eval mode runs itself. One
    with a part in training mode runs as a copy of its modules in eval mode, which shares all weights; so the
    caller's stays as it is. Where memory runs out a batch passes in halves.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; of a prepared one, its source.
        eot: passes of a randomized model over which logits, losses and gradients are averaged.

    Raises:
        InputError: the model is neither a module nor a function, or is lazy.
    """

    def __init__(self, model: Model | Prepared, eot: int = 1) -> None:
        source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module, dtype, device = as_module(source), None, None
        self._probing: list[Any] = []
        self._whole = False  # whether gradients are taken to all leaves, as reentrant checkpoints demand
        run = source
        if module is not None:
            weights = list(module.parameters())
            dtypes = {weight.dtype for weight in weights if weight.is_floating_point()}
            dtype, device = dtypes.pop() if len(dtypes) == 1 else None, device_of(module)
            run = twin(module) if in_training(module) or any(map(is_lazy, weights)) else module
            self._probing = [part for part in run.modules() if "gradient_probes" in vars(part)]
        super().__init__(CheckedModel(run, dtype), source, check_count("eot", eot, 1), dtype, device)
        self._room: Room | None = None
        self._notes: tuple[str, ...] = (in_words(told),) if (told := replaced(module)) else ()

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def add_note(self, note: str) -> None:
        self._notes = tuple(dict.fromkeys([*self._notes, note]))

    def describe(self) -> dict[str, Any]:
        return {"plain": True, "eot": self.eot}

    def __call__(self, x: Tensor) -> Tensor:
        if self.eot == 1:
            return self.verdict(x)
        return sum((self.verdict(x) for _ in range(self.eot - 1)), self.verdict(x)) / self.eot

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> Gradient:
        with torch.inference_mode(False), torch.enable_grad():
            x, y, targets = self._checked(x), indices("y", y), indices("targets", targets)
            y = labels_for(loss, y, targets)
            step = partial(self._gradient, loss=loss, direction=direction and self.eot == 1)
            total: Any = None
            before = self._probes()
            for _ in range(self.eot):
                self.forwards += len(x)
                self.backwards += len(x)
                # a loss that is a function may hold one value for each sample of the batch
                whole = callable(loss)
                made = step(x, y, targets) if whole else self._in_parts("gradient", step, x, y, targets)
                total = made if total is None else [a + b for a, b in zip(total, made, strict=True)]
            self.forwards += self._probes() - before
            value, logits, gradient = total
            return total if self.eot == 1 else (value / self.eot, logits / self.eot, gradient / self.eot)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            x = self._checked(x)
            self.forwards += self.eot * len(x)
            before, leaf = self._probes(), self._leaf(x)
            attached = self._attached(leaf)
            for _ in range(self.eot - 1):
                attached = attached + self._attached(leaf)
            attached = attached / self.eot if self.eot > 1 else attached
            logits = attached.detach()
            chosen = checked_directions(directions(logits) if callable(directions) else directions, logits)
            shape = x.shape[1:] if reduce is None else ()
            gradients = x.new_empty(len(x), chosen.shape[1], *shape)
            for place, by_logits in enumerate(chosen.unbind(1)):
                gradient = self._pull(leaf, attached, by_logits, retain_graph=True).to(x.dtype)
                gradients[:, place] = gradient if reduce is None else reduce(gradient)
            self.forwards += self._probes() - before
            self.backwards += self.eot * gradients.shape[:2].numel()
            return logits, gradients

    def fits(self, x: Tensor) -> int:
        return room_of(self.source).most("gradient", x)

    def clean_pass(self, x: Tensor) -> CleanPass | None:
        if self.eot > 1 or not len(x):
            return None
        with torch.inference_mode(False), torch.enable_grad():
            x = self._checked(x)
            leaf = self._leaf(x)
            try:
                attached = self._attached(leaf)
            except Exception as error:
                if not ran_out(error):
                    raise
                return None
            self.forwards += len(x)
            return _CleanPass(self, x, leaf, attached, attached.detach().clone())

    def _gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, *, loss: Loss, direction: bool
    ) -> Gradient:
        leaf = self._leaf(x)
        attached = self._attached(leaf)
        # copied, since they may be a part of x itself
        logits = attached.detach().clone()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        return value, logits, self._pull(leaf, attached, by_logits).to(x.dtype)

    def _leaf(self, x: Tensor) -> Tensor:
        return x.to(self.sees(x.dtype)).detach().requires_grad_()

    def _attached(self, leaf: Tensor) -> Tensor:
        with no_autocast(leaf.device.type):
            return self._given(leaf)

    def _pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        with no_autocast(leaf.device.type):
            try:
                return pull(attached, leaf, by_logits.to(attached.dtype), retain_graph, self._whole)
            except RuntimeError as error:
                if self._whole or "use_reentrant" not in str(error) or not isinstance(self.model, nn.Module):
                    raise
            # gradients go to all leaves then, so those of the caller's weights must not be among them
            self._given, self._whole = CheckedModel(twin(self.model), self.dtype), True
            return pull(self._attached(leaf), leaf, by_logits.to(attached.dtype), retain_graph, True)

    def _in_parts(self, kind: str, step: Callable[..., Any], x: Tensor, *rows: Tensor | None) -> Any:
        self._room = room_of(self.source) if self._room is None else self._room
        return in_parts(self._room, kind, step, x, *rows, may_split=self._may_split)

    def _may_split(self) -> bool:
        """Return whether no sample depends on the statistics of its batch."""
        return not (isinstance(self.model, nn.Module) and mixes_rows(self.model))

    def _verdict(self, x: Tensor) -> Tensor:
        made: Tensor = self._in_parts("verdict", self._given, x)
        return made

    def _probes(self) -> int:
        return sum(part.gradient_probes for part in self._probing)


@dataclass
class _CleanPass:
    """See `CleanPass`."""

    plain: Plain
    x: Tensor
    leaf: Tensor
    attached: Tensor
    logits: Tensor

    def gradient(
        self, rows: Tensor | None, y: Tensor, loss: Loss, targets: Tensor | None, direction: bool
    ) -> Gradient:
        plain, logits = self.plain, self.logits if rows is None else self.logits[rows]
        with torch.inference_mode(False), torch.enable_grad():
            value, by_logits = losses.loss_and_grad(logits, y, loss, targets, direction)
            if rows is not None:
                by_logits = torch.zeros_like(self.logits).index_copy_(0, rows, by_logits.to(self.logits))
            before = plain._probes()
            gradient = plain._pull(self.leaf, self.attached, by_logits).to(self.x.dtype)
            plain.forwards += plain._probes() - before
            plain.backwards += len(self.x)
            return value, logits, gradient if rows is None else gradient[rows]
