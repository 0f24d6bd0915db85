"""How a search twin computes, and what it goes on without where a pass fails with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copying.fold import Folds
from fastadv.engine.copying.twin import unwrap
from fastadv.engine.layout import CHANNELS_LAST, laid_out
from fastadv.engine.lens import Lens
from fastadv.engine.options import Options
from fastadv.engine.precision import HALF, no_autocast, tf32, to_half
from fastadv.engine.rewrite import Rewriting

Model = Callable[[Tensor], Tensor]

COMPILED = "compiled"  # a note
# bytes a row of an activation: so small a BatchNorm takes less time than what folding it does
SMALL = 1 << 16


@dataclass(frozen=True)
class Form:
    """How passes compute. It never changes: a search twin takes another one, a pass keeps to its own.

    weights: their dtype, None where there is not exactly one. sees: the dtype in which the model as given
    sees inputs of a dtype; None casts them to that of the weights. whole: take gradients to all leaves, as
    reentrant checkpoints demand.
    """

    model: Model
    weights: torch.dtype | None = None
    sees: Callable[[torch.dtype], torch.dtype] | None = None
    rewriting: Rewriting = field(default_factory=Rewriting)
    autocast: torch.dtype | None = None
    tf32: bool = False
    whole: bool = False

    @cached_property
    def compiled(self) -> bool:
        """Whether the model was compiled."""
        return uncompiled(self.model) is not self.model

    @property
    def channels_last(self) -> bool:
        """Whether activations are laid out so."""
        return CHANNELS_LAST.name in self.rewriting.names

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision in which it computes; None where its weights have not exactly one."""
        return self.autocast or self.weights

    @property
    def rounds(self) -> torch.dtype | str | None:
        """The format in which it computes, where that is not the one of its weights."""
        return "tf32" if self.tf32 else self.autocast

    def layout(self, x: Tensor) -> Tensor:
        """Return `x` in the layout that it prefers, without a copy where it already has it."""
        return laid_out(x, self.channels_last)

    def ready(self, x: Tensor) -> Tensor:
        """Return `x` in its layout and precision."""
        return self.layout(x).to(self.sees(x.dtype) if self.sees else self.weights or x.dtype)

    def leaf(self, x: Tensor) -> Tensor:
        """Return the same as the leaf of a graph."""
        return self.ready(x).detach().requires_grad_()

    @property
    def scoring(self) -> "Form":
        """The same for passes without a gradient: where activations are small, nothing is folded.

        To see that nobody else reads what was folded takes longer there than a BatchNorm.
        """
        folds = self.rewriting.folds
        small = folds is not None and folds.widest < SMALL
        return self.without(Folds.name) if small else self

    def lens(self, compared: bool = False) -> Lens | None:
        """Return what a pass is seen through; None where nothing is rewritten, and in compiled code."""
        return self.rewriting.lens(compared=compared) if self.rewriting and not self.compiled else None

    def precisely(self, device: str) -> AbstractContextManager[object]:
        """Compute in its precision inside, whatever autocast is on around."""
        return self._rounding(device) if self.rounds else no_autocast(device)

    @contextmanager
    def _rounding(self, device: str) -> Iterator[None]:
        # the cache would keep stale casts of weights that are being trained
        cast = torch.autocast(device, dtype=self.autocast, cache_enabled=False) if self.autocast else None
        with cast or no_autocast(device), tf32() if self.tf32 else nullcontext():
            yield

    def narrowed(self, options: Options) -> "Form":
        """Return the same in the precision asked for, in half precision with its weights cast in place."""
        half = HALF.get(options.precision)
        if half is None:
            return replace(self, tf32=True)
        model = cast(nn.Module, self.model)
        to_half(model, half)
        for pair in self.rewriting.folds or ():
            pair.cast(half)
        return replace(
            self, model=torch.compile(model) if options.compile else model, weights=half, sees=None
        )

    def without_compiler(self) -> "Form":
        """Return the same, not compiled."""
        return replace(self, model=uncompiled(self.model))

    def without(self, *names: str) -> "Form":
        """Return the same without these rewrites."""
        return replace(self, rewriting=self.rewriting.without(*names))

    def without_functions(self) -> "Form":
        """Return the same without any rewrite but the layout."""
        return self.without(*(name for name in self.rewriting.names if name != CHANNELS_LAST.name))


@dataclass(frozen=True)
class Way:
    """Something that makes passes faster, and with which a pass may fail.

    takes: whether a form takes it, given the error's message. leave: the form without it. note: what is said
    then; instead_of: the note that no longer holds.
    """

    note: str
    takes: Callable[[Form, str], bool]
    leave: Callable[[Form], Form]
    instead_of: str = ""


# in the order in which they are left
WAYS = (
    Way(
        f"not {COMPILED}: the compiled search twin failed",
        lambda form, why: form.compiled,
        Form.without_compiler,
        instead_of=COMPILED,
    ),
    Way(
        "gradients by backward: the model refused grad",
        lambda form, why: is_module(form) and not form.whole and "use_reentrant" in why,
        lambda form: replace(form, whole=True),
    ),
    Way(
        "not channels-last: the model failed",
        lambda form, why: is_module(form) and form.channels_last,
        lambda form: form.without(CHANNELS_LAST.name),
    ),
    Way(
        "not rewritten: the rewritten model failed",
        lambda form, why: is_module(form) and bool(form.rewriting),
        Form.without_functions,
    ),
    Way(
        "not rewritten, nor channels-last: the model failed",
        lambda form, why: is_module(form) and bool(form.rewriting) and form.channels_last,
        lambda form: form.without(*form.rewriting.names),
    ),
)


def is_module(form: Form) -> bool:
    """Return whether its model is a module, of which something is known."""
    return isinstance(form.model, nn.Module)


def uncompiled(model: Model) -> Model:
    """Return what was compiled; the model itself where nothing was."""
    return unwrap(model) if isinstance(model, nn.Module) else getattr(model, COMPILED_FUNCTION, model)
