"""Plain: the model as given, in eval mode, and nothing else."""

from collections.abc import Callable, Hashable
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastadv import losses
from fastadv._checks import check_count, eager
from fastadv._torch import parts_of, tensors_of
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs, check_input, check_model, indices, labels_for
from fastadv.engine.bound import Ask, Bound, CleanPass, Gradient, pull, pull_each
from fastadv.engine.capture import Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.checked import RECURRENT, CheckedModel, known_of
from fastadv.engine.copying.copier import LAZY, eval_copy
from fastadv.engine.copying.first_pass import asks_for_gradients, on_gpu
from fastadv.engine.module import as_module, in_words, one_dtype, replaced
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Loss, Model, Prepared, log_confidence, mean_of
from fastadv.engine.room import GRADIENT, VERDICT, mixes_rows, ran_out, room_of
from fastadv.errors import InputError, NoGradientError
from fastadv.text import first_line

REFUSES = (
    "model: expected logits that depend on x differentiably, got a model whose {} pass raises where a "
    "gradient is followed ({}); mend it, or use an attack without gradients"
)


class Refusal(NoGradientError, RuntimeError):
    """A model that raises an error of its own where a gradient is followed, and answers otherwise."""


class Plain(Prepared):
    """The model as given: its own forward in eval mode, and `autograd` to the input alone.

    It rewrites, compares and times nothing. A module in eval mode is called as it is, once first passes of a
    copy have shown that it writes no attribute, buffer or `.grad`; a copy of one that does takes its place.
    What it writes for batches of other sizes alone is not seen, and is written into the model itself.
    One in training mode is copied: the copy is in eval mode, shares all weights and follows them where they
    change in place. After any other change of the model make a new one, as each call of an attack does.
    Where memory runs out, a batch passes in halves.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; of a prepared one, its source.
        eot: passes of a randomized model over which logits, losses and gradients are averaged.
        counts: of a Frozen for which it answers.
        outputs: what the model returns: logits of "classes", one "logit", or "any" tensor [B, ...].

    Raises:
        InputError: the model is neither a module nor a function, or is lazy.
    """

    halves = True  # whether batches may pass in parts

    def __init__(
        self, model: Model | Prepared, eot: int = 1, counts: Counts | None = None,
        outputs: Outputs = "classes",
    ) -> None:  # fmt: skip
        source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module, device = as_module(source), None
        parts: list[nn.Module] = []
        if module is None:
            checked = CheckedModel(source, outputs=outputs)
        else:
            parts = parts_of(module)
            weights, buffers = tensors_of(parts)
            known = known_of(module, parts)
            copied = known.writes or _needs_copy(parts, [*weights, *buffers])
            run = eval_copy(module, follow=None if known.writes else False) if copied else module
            checked = CheckedModel(run, one_dtype(weights), known, not copied, outputs)
            device = next((tensor.device for tensor in (*weights, *buffers)), None)
        checked.mends_rows = device is None or device.type == "cpu"
        self.source, self.checked, self.eot = source, checked, check_count("eot", eot, 1)
        self.dtype, self.device, self.counts = checked.dtype, device, counts or Counts()
        self._by_grad_mode = asks_for_gradients(source, parts)
        self._whole = False  # whether gradients are taken to all leaves, as reentrant checkpoints demand
        self._room = room_of(source)
        self._added = dict[str, None]()

    @property
    def model(self) -> Model:  # type: ignore[override]
        return self.checked.model

    @property
    def outputs(self) -> Outputs:  # type: ignore[override]
        return self.checked.outputs

    @property
    def output_shape(self) -> torch.Size | None:
        return self.checked.shape

    def taking(self, outputs: Outputs) -> Prepared:
        return Plain(self.source, self.eot, outputs=outputs)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(filter(None, (in_words(replaced(as_module(self.source))), *self._added)))

    def add_note(self, note: str) -> None:
        self._added[note] = None

    def describe(self) -> dict[str, Any]:
        return {"plain": True, "eot": self.eot}

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        return self.checked.sees(dtype)

    @eager
    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._as_given(self._verdict, x)

    @eager
    def confidence(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        confidence = getattr(self.model, "confidence", None)
        if not callable(confidence) or isinstance(confidence, nn.Module):  # a part of that name is no method
            return log_confidence(self.model, self.verdict(x)).exp()
        return self._as_given(confidence, x).clone()  # as logits that stay

    def taken(self, x: object) -> Tensor:
        """Return x [B, ...] checked, once the model has met the like."""
        x = check_input(x, self.device)
        self.forwards += self.checked.meet(x)
        return x

    def _as_given(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with no_gradient():
            x = self.taken(x).contiguous()
            self.forwards += x.shape[0]
            with no_autocast(x.device.type):
                return run(x.to(self.sees(x.dtype)))

    def _verdict(self, x: Tensor) -> Tensor:
        return self._room.passes(VERDICT, partial(self.checked, stays=True), x, apart=self._rows_apart)

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return mean_of([self._as_given(self._verdict, x) for _ in range(self.eot)])

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        with with_gradient():
            x, y, targets = self.taken(x), indices("y", y), indices("targets", targets)
            y = labels_for(loss, y, targets)
            step = partial(self._gradient, loss=loss, direction=direction and self.eot == 1)
            # a loss that is a function may hold one value for each sample of the batch
            if callable(loss):
                return step(x, y, targets)
            return self._room.passes(GRADIENT, step, x, y, targets, apart=self._rows_apart)

    def _gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, loss: Loss, direction: bool
    ) -> Gradient:
        passes: list[Gradient] = []
        with no_autocast(x.device.type):
            for _ in range(self.eot):
                leaf = self.leaf(x)
                attached = self.followed(leaf)
                # copied, since they may be a part of x itself
                logits = attached.detach().clone()
                value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
                gradient = self.pull(leaf, attached, by_logits)
                passes.append((value, logits, gradient.to(x.dtype)))
                self.count(len(x))
        value, logits, gradient = map(mean_of, zip(*passes, strict=True))
        return value, logits, gradient

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient(), no_autocast(x.device.type):
            x = self.taken(x)
            self.forwards += self.eot * len(x)
            leaf = self.leaf(x)
            attached = self.followed(leaf)
            for _ in range(self.eot - 1):
                attached = attached + self.followed(leaf)
            attached = attached / self.eot if self.eot > 1 else attached
            logits = attached.detach().clone()
            back = partial(self.pull, leaf, attached, retain_graph=True)
            _, gradients, _ = pull_each(x, logits, directions, reduce, back)
            self.backwards += self.eot * gradients.shape[:2].numel()
            return logits, gradients

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None,
        otherwise: Prepared | None = None,
    ) -> Ask | None:  # fmt: skip
        """Bind as `Prepared.bind`; where a pass fails, `otherwise` gives the gradient."""
        usual = self.eot == 1 and x.dtype == self.sees(x.dtype) == torch.float32 and not self._whole
        if not (usual and self._fits(x)) or torch.is_autocast_enabled(x.device.type):
            return None
        general = (otherwise or self).input_gradient
        ask = partial(general, y=y, loss=loss, targets=targets, direction=True)
        return Bound(self.checked, self.leaf, self.count, ask, x, y, loss, targets)

    def captures(self, x: Tensor) -> Captures | None:
        if self.eot > 1 or not waits(x.device) or not isinstance(self.source, nn.Module):
            return None
        model = cast(nn.Module, self.model)

        def alike() -> bool:
            # counters of its own would be those of a pass that nobody asked for
            probe = Plain(self.source, counts=self.counts, outputs=self.outputs)
            return isinstance(probe.model, nn.Module) and passes_alike(probe.model, probe, x)

        kind, held = self._kind, None if model is self.source else model  # which holds its graphs
        return Captures(graphs_of(self.source), kind, held, alike) if kind else None

    @cached_property
    def _kind(self) -> Hashable | None:
        """What its graphs depend on."""
        return kind_of(cast(nn.Module, self.source))

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        # A forward that may answer otherwise if a gradient is followed has its verdict in a pass of its own
        if self.eot > 1 or self._by_grad_mode or not x.shape[0]:
            return None
        with with_gradient(), no_autocast(x.device.type):
            x = self.taken(x)
            if not self._fits(x):
                return None
            leaf = self.leaf(x)
            try:
                attached = self.checked(leaf)
            except InputError:
                raise
            except Exception:  # the verdict, a pass of its own then, fails where the gradient is not to blame
                return None
            self.forwards += x.shape[0]
            return CleanPass(self, x, leaf, attached, attached.detach().clone())

    def leaf(self, x: Tensor) -> Tensor:
        """Return x as the model sees it, sharing its memory where it can, to follow a gradient to it."""
        seen = self.sees(x.dtype)
        return (x if x.dtype == seen else x.to(seen)).detach().requires_grad_()

    def followed(self, leaf: Tensor) -> Tensor:
        """Return the logits [B, K] at a leaf; Refusal where the model refuses to be followed."""
        try:
            return self.checked(leaf)
        except Exception as error:  # models raise anything
            if not _by_following(error):
                raise
            refusal = error
        with torch.no_grad():
            self.checked(leaf.detach())  # it raises where the gradient is not to blame
        raise Refusal(REFUSES.format("forward", first_line(refusal))) from refusal

    def pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """Return the gradient at `leaf` of by_logits [B, K] @ attached, the logits there."""
        if by_logits.dtype != attached.dtype:
            by_logits = by_logits.to(attached.dtype)
        checked = self.checked
        try:
            with checked.differentiated():
                return pull(attached, leaf, by_logits, retain_graph, self._whole)
        except Exception as error:  # models raise anything
            whole = "use_reentrant" in str(error) and isinstance(self.model, nn.Module) and not self._whole
            if not (whole or RECURRENT in str(error)):
                if not _by_following(error):
                    raise
                raise Refusal(REFUSES.format("backward", first_line(error))) from error
        self._whole |= whole  # the copy's weights ask for none; of a function's that is not known
        if whole and checked.uncopied:
            checked.use_copy()
        self.forwards += len(leaf)
        attached = checked(leaf)
        with checked.differentiated():
            return pull(attached, leaf, by_logits, retain_graph, self._whole)

    def _fits(self, x: Tensor) -> bool:
        """Return whether x passes with its gradient at once, as far as is known."""
        return not self.halves or self._room.most(GRADIENT, x) >= x.shape[0]

    def _rows_apart(self) -> bool:
        """Return whether no sample depends on its place in the batch or on the statistics of that."""
        return self.halves and not (isinstance(self.model, nn.Module) and mixes_rows(self.model))


def _by_following(error: Exception) -> bool:
    """Return whether an error may be that of a model that has no gradient."""
    # Steps that a capture does not allow raise anything
    return not (isinstance(error, InputError) or ran_out(error) or in_step())


def _needs_copy(parts: list[nn.Module], tensors: list[Tensor]) -> bool:
    """Return whether a model cannot be called as it is."""
    # Training mode learns, and in it alone cuDNN differentiates recurrent layers; what scripted parts write
    # is not seen, and inference tensors are part of no graph
    kinds = {*map(type, parts)}
    if any(issubclass(kind, LazyModuleMixin) for kind in kinds):
        raise InputError(LAZY)
    if any(part.training for part in parts) or any(map(Tensor.is_inference, tensors)):
        return True
    if not any(issubclass(kind, torch.jit.ScriptModule | nn.RNNBase) for kind in kinds):
        return False
    return any(isinstance(part, torch.jit.ScriptModule) or on_gpu(part) for part in parts)
