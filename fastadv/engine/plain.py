"""Plain: the model as given, in eval mode, and nothing else."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv._checks import check_count
from fastadv._torch import parts_of, tensors_of
from fastadv._waiting import waits
from fastadv.engine.arguments import Outputs, check_input, check_model, classes_for
from fastadv.engine.bound import Ask, Bound, CleanPass, Followed, Gradient, jacobian, pull
from fastadv.engine.capture import Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.checked import CheckedModel
from fastadv.engine.copy import copied
from fastadv.engine.mode import InEval
from fastadv.engine.module import as_module, in_words, one_dtype, replaced, traits
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.engine.prepared import Counts, Directions, Model, Prepared, read_from
from fastadv.engine.room import GRADIENT, VERDICT, mixes_rows, ran_out, room_of
from fastadv.errors import InputError, NoGradientError
from fastadv.text import first_line

REFUSES = (
    "model: expected logits that depend on x differentiably, got a model whose {} pass raises where a "
    "gradient is followed ({}); mend it, or use an attack without gradients"
)
LAZY = "model: expected initialized parameters, got a lazy module; run the model once"


def mean_of(passes: Sequence[Tensor]) -> Tensor:
    """Return the mean of the results of `eot` passes."""
    return passes[0] if len(passes) == 1 else sum(passes[1:], passes[0]) / len(passes)


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
        self.source = source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module = as_module(source)
        self.parts: list[nn.Module] = [] if module is None else parts_of(module)
        weights, buffers = tensors_of(self.parts)
        held = weights + buffers
        known = traits(frozenset(map(type, self.parts)))
        if known.lazy:
            raise InputError(LAZY)
        if module is not None and any(map(Tensor.is_inference, held)):
            # these are part of no graph; a copy's are, and ask for no gradient
            module = copied(module, buffers=True)
            self.parts = parts_of(module)
        self.model: Model = source if module is None else module
        self.eot, self.counts = check_count("eot", eot, 1), counts or Counts()
        self.dtype = one_dtype(weights)
        self.device = held[0].device if held else None
        mends_rows = known.may_normalize and (self.device is None or self.device.type == "cpu")
        self.checked = CheckedModel(self.model, mends_rows, self.dtype, outputs)
        self.room = room_of(source)
        self._added = dict[str, None]()

    def in_eval(self) -> InEval:
        return InEval(self.parts)

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        other = Plain(self.source, eot, outputs=outputs)
        other.patient = self.patient
        return other

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(filter(None, (in_words(replaced(as_module(self.source))), *self._added)))

    def add_note(self, note: str) -> None:
        self._added[note] = None

    def describe(self) -> dict[str, Any]:
        return {"plain": True, "eot": self.eot}

    def checked_x(self, x: object) -> Tensor:
        """Return x [B, ...] checked, once it is known in which dtype the model sees the like."""
        x = check_input(x, self.device)
        self.counts.forwards += self.checked.learn_dtype(x)
        return x

    def verdict(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        with no_gradient(), self.in_eval():
            x = self.checked_x(x).contiguous()
            self.counts.forwards += x.shape[0]
            with no_autocast(x.device.type):
                x = x.to(self.sees(x.dtype))
                return self.room.passes(VERDICT, self.checked, x, apart=self.rows_apart)

    def __call__(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and getattr(x, "requires_grad", False):
            logits: Tensor = Followed.apply(x, self)  # type: ignore[no-untyped-call]
            return logits
        return self.verdict(x) if self.eot == 1 else mean_of([self.verdict(x) for _ in range(self.eot)])

    def input_gradient(
        self, x: Tensor, y: Tensor | None, loss: losses.Loss = "ce", targets: Tensor | None = None,
        direction: bool = False, rows: Tensor | None = None,
    ) -> Gradient:  # fmt: skip
        with with_gradient(), self.in_eval():
            x = self.checked_x(x)
            y, targets = classes_for(loss, y, targets)
            ask = Bound(self, y, loss, targets, direction and self.eot == 1)
            with no_autocast(x.device.type):
                passes = [*map(ask, [x] * self.eot)]
            value, logits, gradient = map(mean_of, zip(*passes, strict=True))
            return value, logits, gradient

    def bind(
        self, x: Tensor, y: Tensor, loss: str, targets: Tensor | None, rows: Tensor | None = None
    ) -> Ask | None:
        usual = self.eot == 1 and x.dtype == self.sees(x.dtype) == torch.float32
        if not (usual and self.fits(x)) or torch.is_autocast_enabled(x.device.type):
            return None
        return Bound(self, y, loss, targets, direction=True, known=True)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with with_gradient(), self.in_eval(), no_autocast(x.device.type):
            x, step = self.checked_x(x), partial(jacobian, self, reduce)
            return self.room.jacobian(step, x, directions, self, self.rows_apart)

    def clean_pass(self, x: Tensor, rows: Tensor | None = None) -> CleanPass | None:
        usual = self.eot == 1 and isinstance(self.source, nn.Module) and x.shape[0] > 0
        if not (usual and self.fits(x)) or torch.is_autocast_enabled(x.device.type):
            return None
        x = self.checked_x(x)
        leaf = self.leaf(x)
        try:
            with torch.enable_grad():
                attached = self.checked(leaf)
        except InputError:
            raise
        except Exception:  # the verdict, a pass of its own then, fails where the gradient is not to blame
            return None
        self.counts.forwards += x.shape[0]
        # The dtype of a gradient is the one that the model sees: half precision of x may hold less
        return CleanPass(self, x, rows, attached.detach().clone(), partial(self.pull, leaf, attached))

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

    # What a pass that follows a gradient is made of.

    def leaf(self, x: Tensor) -> Tensor:
        """Return x as the model sees it, sharing its memory where it can, to follow a gradient to it."""
        return x.to(self.checked.sees(x.dtype)).detach().requires_grad_()

    def followed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and the logits there with their graph, the mean of `eot` passes."""
        leaf = self.leaf(x)
        try:
            logits = mean_of([self.checked(leaf) for _ in range(self.eot)])
        except Exception as error:  # models raise anything
            self.refuse("forward", error, leaf)
        self.counts.forwards += self.eot * len(leaf)
        return leaf, logits

    def pull(self, leaf: Tensor, attached: Tensor, by_logits: Tensor, retain_graph: bool = False) -> Tensor:
        """Return the gradient at `leaf` of by_logits [B, K] @ attached, the logits there."""
        if by_logits.dtype != attached.dtype:
            by_logits = by_logits.to(attached.dtype)
        try:
            return pull(leaf, attached, by_logits, retain_graph)
        except Exception as error:  # models raise anything
            self.refuse("backward", error, leaf)

    def refuse(self, way: str, error: Exception, leaf: Tensor) -> NoReturn:
        """Raise an error of a pass, as Refusal where it is the gradient that is to blame."""
        # steps that a capture does not allow raise anything
        if isinstance(error, InputError) or ran_out(error) or in_step():
            raise error
        if way == "forward":
            with torch.no_grad():
                self.checked(leaf.detach())  # it raises where the gradient is not to blame
        raise Refusal(REFUSES.format(way, first_line(error))) from error

    # What fits into memory.

    def fits(self, x: Tensor) -> bool:
        """Return whether x passes with its gradient at once, as far as is known."""
        return self.room.most(GRADIENT, x) >= x.shape[0]

    def rows_apart(self) -> bool:
        """Return whether no sample depends on the statistics of the batch."""
        return not (isinstance(self.model, nn.Module) and mixes_rows(self.model))
