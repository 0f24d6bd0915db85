"""Configuration of the search copy: dtype, layout, rewrites, compiler."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from fastadv._torch import COMPILED_FUNCTION
from fastadv.engine.copying.fold import Folds
from fastadv.engine.copying.twin import unwrap
from fastadv.engine.layout import CHANNELS_LAST, laid_out
from fastadv.engine.precision import HALF, Options, no_autocast, tf32, to_half
from fastadv.engine.prepared import Model
from fastadv.engine.rewrite import Lens, Rewriting

COMPILED = "compiled"  # a note
# bytes a row of an activation, below which a BatchNorm takes less time than the checks of a folded one
SMALL = 1 << 16


@dataclass(frozen=True)
class Form:
    """How passes compute. It never changes: a search copy takes another one, a pass keeps to its own.

    weights: their dtype, None where there is not exactly one. sees: maps a dtype of x to that in which the
    model as given sees it.
    """

    model: Model
    weights: torch.dtype | None = None
    sees: Callable[[torch.dtype], torch.dtype] | None = None
    rewriting: Rewriting = field(default_factory=Rewriting)
    tf32: bool = False

    @cached_property
    def compiled(self) -> bool:
        return uncompiled(self.model) is not self.model

    @property
    def channels_last(self) -> bool:
        return CHANNELS_LAST.name in self.rewriting.names

    @property
    def format(self) -> torch.dtype | str | None:
        """The precision of passes; None where the weights have not exactly one."""
        return "tf32" if self.tf32 else self.weights

    def layout(self, x: Tensor) -> Tensor:
        return laid_out(x, self.channels_last)

    def ready(self, x: Tensor) -> Tensor:
        return self.layout(x).to(self.sees(x.dtype) if self.sees else self.weights or x.dtype)

    def leaf(self, x: Tensor) -> Tensor:
        return self.ready(x).detach().requires_grad_()

    @property
    def scoring(self) -> "Form":
        """The same for passes without a gradient, where small activations gain nothing from folding."""
        folds = self.rewriting.folds
        small = folds is not None and folds.widest < SMALL
        return self.without(Folds.name) if small else self

    def lens(self) -> Lens | None:
        """Return the lens of a pass; None where nothing is rewritten, and in compiled code."""
        return self.rewriting.lens() if self.rewriting and not self.compiled else None

    def precisely(self, device: str) -> AbstractContextManager[object]:
        """Compute in this form's precision inside, whatever autocast is on around."""
        return tf32(device) if self.tf32 else no_autocast(device)

    def narrowed(self, options: Options) -> "Form":
        """Return the same in the precision of the options; half precision casts the weights in place."""
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
        return replace(self, model=uncompiled(self.model))

    def without(self, *names: str) -> "Form":
        return replace(self, rewriting=self.rewriting.without(*names))

    def without_functions(self) -> "Form":
        """Return the same without any rewrite but the layout."""
        return self.without(*(name for name in self.rewriting.names if name != CHANNELS_LAST.name))


def uncompiled(model: Model) -> Model:
    return unwrap(model) if isinstance(model, nn.Module) else getattr(model, COMPILED_FUNCTION, model)
