"""Plain: the model as given, in eval mode, and nothing else."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastadv import losses
from fastadv._checks import check_count, eager
from fastadv._torch import parts_of, tensors_of
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs, check_input, check_model, classes_for
from fastadv.engine.bound import Ask, Bound, CleanPass, Followed, Gradient, pull, pull_each
from fastadv.engine.capture import Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.checked import RECURRENT, CheckedModel, may_normalize
from fastadv.engine.copy import copied
from fastadv.engine.mode import InEval
from fastadv.engine.module import as_module, in_words, one_dtype, replaced
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Model, Prepared, mean_of, read_from
from fastadv.engine.room import GRADIENT, VERDICT, mixes_rows, ran_out, room_of
from fastadv.errors import InputError, NoGradientError
from fastadv.text import first_line

REFUSES = (
    "model: expected logits that depend on x differentiably, got a model whose {} pass raises where a "
    "gradient is followed ({}); mend it, or use an attack without gradients"
)


LAZY = "model: expected initialized parameters, got a lazy module; run the model once"


class Refusal(NoGradientError, RuntimeError):
    """A model that raises an error of its own where a gradient is followed, and answers otherwise."""


class Plain(Prepared):
    """The model as given: its own forward in eval mode, and `autograd` to the input alone.

    It rewrites, compares and times nothing: for the length of each question all parts are in eval mode, and
    then as they were; what `bind` returns leaves that to the call around. It copies a model alone whose
    weights were made in inference mode. What the forward writes, such as a counter or a cache, it writes.
    Weights may change between calls; after any other change of the model make a new one, as each call of an
    attack does. Where memory runs out, a batch passes in halves.

    Args:
        model: module, or function of x [B, ...] that returns logits [B, K]; of a prepared one, its source.
        eot: passes of a randomized model over which logits, losses and gradients are averaged.
        counts: of a Frozen for which it answers.
        outputs: what the model returns: logits of "classes", one "logit", or "any" tensor [B, ...].

    Raises:
        InputError: the model is neither a module nor a function, or is lazy.
    """

    outputs, output_shape, sees = read_from("checked", "outputs", "shape", "sees")

    def __init__(
        self, model: Model | Prepared, eot: int = 1, counts: Counts | None = None,
        outputs: Outputs = "classes",
    ) -> None:  # fmt: skip
        source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module = as_module(source)
        self.parts: list[nn.Module] = [] if module is None else parts_of(module)
        weights, buffers = tensors_of(self.parts)
        self.source, self.eot, self.counts = source, check_count("eot", eot, 1), counts or Counts()
        self.checked = CheckedModel(source if module is None else module, one_dtype(weights), outputs)
        kinds = {*map(type, self.parts)}
        if any(issubclass(kind, LazyModuleMixin) for kind in kinds):
            raise InputError(LAZY)
        if any(map(Tensor.is_inference, (*weights, *buffers))):  # which are part of no graph
            # a copy's take part in graphs, and ask for no gradient
            self.checked.model = copied(cast(nn.Module, self.checked.model), buffers=True)
            self.parts = parts_of(self.checked.model)
        self.dtype = self.checked.dtype
        self.device = next((tensor.device for tensor in (*weights, *buffers)), None)
        normalizes = module is None or any(map(may_normalize, kinds))
        self.checked.mends_rows = normalizes and (self.device is None or self.device.type == "cpu")
        self._room = room_of(source)
        self._added = dict[str, None]()

    @property
    def model(self) -> Model:  # type: ignore[override]
        return self.checked.model

    def in_eval(self) -> InEval:
        return InEval(self.parts)

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        return Plain(self.source, eot, outputs=outputs)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(filter(None, (in_words(replaced(as_module(self.source))), *self._added)))

    def add_note(self, note: str) -> None:
        self._added[note] = None

    def describe(self) -> dict[str, Any]:
        return {"plain": True, "eot": self.eot}

    @eager
    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        with no_gradient(), self.in_eval():
            x = self.taken(x).contiguous()
            self.counts.forwards += x.shape[0]
            with no_autocast(x.device.type):
                x = x.to(self.sees(x.dtype))
                return self._room.passes(VERDICT, self._logits, x, apart=self._rows_apart)

    def _logits(self, x: Tensor) -> Tensor:
        # copied, as the next pass may overwrite them
        return self.checked(x).clone()

    def taken(self, x: object) -> Tensor:
        """Return x [B, ...] checked, once the model has met the like."""
        x = check_input(x, self.device)
        self.counts.forwards += self.checked.meet(x)
        return x

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and getattr(x, "requires_grad", False):
            logits: Tensor = Followed.apply(x, self)  # type: ignore[no-untyped-call]
            return logits
        return mean_of([self.verdict(x) for _ in range(self.eot)])

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        with with_gradient(), self.in_eval():
            x = self.taken(x)
            y, targets = classes_for(loss, y, targets)
            direction = direction and self.eot == 1
            step = partial(self._gradient, loss=loss, direction=direction)
            if callable(loss) or self._fits(x):
                try:
                    return step(x, y, targets)
                except Exception as error:
                    # a loss that is a function may hold one value for each sample of the batch
                    if callable(loss) or len(x) < 2 or not (ran_out(error) and self._rows_apart()):
                        raise
                # Outside of `except`: the error holds on to what the pass had in memory
                self._room.halve(GRADIENT, x, len(x))
            return self._room.passes(GRADIENT, step, x, y, targets, apart=self._rows_apart)

    def _gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, loss: losses.Loss, direction: bool
    ) -> Gradient:
        passes: list[Gradient] = []
        for _ in range(self.eot):
            leaf = self.leaf(x)
            with no_autocast(x.device.type):
                with self._refusals(leaf):
                    attached = self.checked(leaf)
                self.counts.forwards += x.shape[0]
                # copied, since they may be a part of x itself
                logits = attached.detach().clone()
                value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
                gradient = self.pull(leaf, attached, by_logits)
            self.counts.backwards += x.shape[0]
            passes.append((value, logits, gradient.to(x.dtype)))
        value, logits, gradient = map(mean_of, zip(*passes, strict=True))
        return value, logits, gradient

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient(), self.in_eval(), no_autocast(x.device.type):
            x = self.taken(x)
            leaf = self.leaf(x)
            with self._refusals(leaf):
                attached = self.follow(leaf)
            logits = attached.detach().clone()
            back = partial(self.pull, leaf, attached)
            _, gradients, _ = pull_each(x, logits, directions, reduce, back)
            self.backwards += self.eot * gradients.shape[:2].numel()
            return logits, gradients

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None,
        otherwise: Prepared | None = None,
    ) -> Ask | None:  # fmt: skip
        """Bind as `Prepared.bind`; where a pass fails, `otherwise` gives the gradient."""
        usual = self.eot == 1 and x.dtype == self.sees(x.dtype) == torch.float32
        if not (usual and self._fits(x)) or torch.is_autocast_enabled(x.device.type):
            return None
        general = (otherwise or self).input_gradient
        ask = partial(general, y=y, loss=loss, targets=targets, direction=True)
        return Bound(self, ask, x, y, loss, targets)

    def captures(self, x: Tensor) -> Captures | None:
        if self.eot > 1 or not waits(x.device) or not isinstance(self.source, nn.Module):
            return None
        model, kind = cast(nn.Module, self.model), self._kind
        held = None if model is self.source else model  # the graphs go with their source

        def alike() -> bool:
            return passes_alike(model, Plain(self.source, counts=self.counts, outputs=self.outputs), x)

        return Captures(graphs_of(self.source), kind, held, alike) if kind else None

    @cached_property
    def _kind(self) -> Hashable | None:
        """What its graphs depend on."""
        return kind_of(cast(nn.Module, self.source))

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        if self.eot > 1 or not isinstance(self.source, nn.Module) or not x.shape[0]:
            return None
        with with_gradient(), self.in_eval(), no_autocast(x.device.type):
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
            self.counts.forwards += x.shape[0]
            return CleanPass(self, x, leaf, attached, attached.detach().clone())

    def leaf(self, x: Tensor) -> Tensor:
        """Return x as the model sees it, sharing its memory where it can, to follow a gradient to it."""
        seen = self.sees(x.dtype)
        return (x if x.dtype == seen else x.to(seen)).detach().requires_grad_()

    def follow(self, leaf: Tensor) -> Tensor:
        """Return the logits at a leaf with their graph, the mean of `eot` passes."""
        self.forwards += self.eot * len(leaf)
        return mean_of([self.checked(leaf) for _ in range(self.eot)])

    @contextmanager
    def _refusals(self, leaf: Tensor) -> Iterator[None]:
        """Raise Refusal where the model refuses to be followed inside."""
        try:
            yield
            return
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
                return pull(attached, leaf, by_logits, retain_graph)
        except Exception as error:  # models raise anything
            if RECURRENT not in str(error):
                if _by_following(error):
                    raise Refusal(REFUSES.format("backward", first_line(error))) from error
                raise
        # without the kernel that refused
        self.forwards += len(leaf)
        attached = checked(leaf)
        with checked.differentiated():
            return pull(attached, leaf, by_logits, retain_graph)

    def _fits(self, x: Tensor) -> bool:
        """Return whether x passes with its gradient at once, as far as is known."""
        return self._room.most(GRADIENT, x) >= x.shape[0]

    def _rows_apart(self) -> bool:
        """Return whether no sample depends on the statistics of the batch."""
        return not (isinstance(self.model, nn.Module) and mixes_rows(self.model))


def _by_following(error: Exception) -> bool:
    """Return whether an error may be that of a model that has no gradient."""
    # Steps that a capture does not allow raise anything
    return not (isinstance(error, InputError) or ran_out(error) or in_step())
