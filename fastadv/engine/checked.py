"""CheckedModel: one pass of a model, whose outputs are checked."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastadv._torch import BatchNorm, nodes_of, version
from fastadv.engine.arguments import OUTPUTS, TWO_INPUTS, Outputs
from fastadv.engine.first_pass import first_pass
from fastadv.engine.precision import NOTHING, no_autocast, without_cudnn
from fastadv.errors import InputError
from fastadv.rng import generators_kept

WRITES = (
    "model: expected a model that leaves x as it is, got one that writes into it; "
    "let its forward begin with x = x.clone()"
)
NEEDS = f"model: expected one that takes images alone, got {{}}; {TWO_INPUTS}"
Model = Callable[[Tensor], Tensor]


class Traits(NamedTuple):
    """What the classes of a model's parts say of it."""

    lazy: bool  # it has parameters that its first pass makes
    recurrent: bool  # cuDNN does not differentiate such layers in eval mode
    mends_rows: bool  # torch may get the gradient of a single row wrong


@lru_cache
def traits(kinds: frozenset[type], on_cpu: bool) -> Traits:
    """Return the traits of a model with parts of these classes; a function has none."""
    lazy, recurrent = (any(issubclass(kind, one) for kind in kinds) for one in (LazyModuleMixin, nn.RNNBase))
    return Traits(lazy, recurrent, on_cpu and (not kinds or any(map(_may_normalize, kinds))))


def _may_normalize(kind: type) -> bool:
    """Return whether modules of a class may be normalizations, or hold what is none of their parts."""
    norms = BatchNorm, nn.modules.instancenorm._InstanceNorm  # whose kernel is that of BatchNorm
    return issubclass(kind, norms) or not kind.__module__.startswith("torch.nn.modules.")


class CheckedModel:
    """A model whose outputs are checked, and returned as rows [B, K]."""

    # The first pass in each grad mode gets a copy of x; where the model writes into that, so does each pass

    def __init__(
        self, model: Model, known: Traits, dtype: torch.dtype | None = None, outputs: Outputs = "classes"
    ) -> None:
        """Take a model of `known` traits whose weights are in `dtype`."""
        self.model, self.dtype, self.outputs, self._rows = model, dtype, outputs, OUTPUTS[outputs]
        self.known = known
        self.mends_rows = known.mends_rows  # until a graph has none of these layers
        self.shape: torch.Size | None = None  # of what a sample gave last, where outputs may be any
        self.copies = False  # whether it is given copies of x, into which it writes
        self._pairs = False  # whether a single row passes twice
        self._as_is = False  # whether its last outputs were taken as they are
        self._passed = set[bool]()  # grad modes in which there was a pass
        self._seen: dict[torch.dtype, torch.dtype] = {}

    def is_bare(self, rows: int) -> bool:
        """Return whether passes of so many rows with a gradient need the model's own call alone."""
        if self.copies or self.known.recurrent or (rows == 1 and (self._pairs or self.mends_rows)):
            return False
        return self._as_is and True in self._passed

    def learn_dtype(self, x: Tensor) -> int:
        """Learn in which dtype the model sees inputs like x; return how many rows that passed."""
        # It may prepare images in float32 and go on otherwise, so x is cast only where it is refused as it
        # is: by two rows, or by all, since some models take one batch size alone
        weights, passed = self.dtype, 0
        if weights in (None, x.dtype) or x.dtype in self._seen or not x.shape[0]:
            return 0
        for count, dtype in ((2, x.dtype), (2, weights), (len(x), x.dtype)):
            few = x[:count].detach().to(dtype, copy=True)
            passed += len(few)
            if self._takes(few):
                self._seen[x.dtype] = dtype
                return passed
        self._seen[x.dtype] = weights
        return passed

    def _takes(self, x: Tensor) -> bool:
        with torch.no_grad(), generators_kept(x.device), no_autocast(x.device.type), suppress(Exception):
            with first_pass(self.model):
                self.model(x)
            return True
        return False  # models raise anything

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model sees inputs of that dtype."""
        return self._seen.get(dtype, self.dtype or dtype)

    def __call__(self, x: Tensor, lens: AbstractContextManager[object] | None = None) -> Tensor:
        """Return the logits at x by the model, seen through a lens."""
        follows = torch.is_grad_enabled()
        first = x.shape[0] > 0 and follows not in self._passed
        points = x.clone() if first or self.copies else x
        before = version(points)
        with lens or NOTHING, self.own_kernels(), first_pass(self.model) if first else NOTHING:
            try:
                logits = self._twice(points) if self._pairs and x.shape[0] == 1 else self.model(points)
            except Exception as error:  # models raise anything
                if isinstance(error, TypeError) and "forward() missing" in str(error):
                    raise InputError(NEEDS.format(error)) from error
                if x.shape[0] != 1 or version(points) != before:
                    raise
                logits = self._by_pair(points, error)
        if first:
            self.copies |= version(points) != before
            self._passed.add(follows)
        if version(points) != before and not self.copies:
            raise InputError(WRITES)
        return self._checked(logits, x)

    def _by_pair(self, row: Tensor, error: Exception) -> Tensor:
        """Return the logits of a single row, which fails in a model that squeezes, by two equal rows."""
        # equal rows have no statistics either
        if not isinstance(error, InputError) and "more than 1 value" not in str(error):
            with suppress(Exception):
                logits = self._twice(row)
                self._pairs = True
                return logits
        raise error

    def _twice(self, row: Tensor) -> Tensor:
        return self.model(torch.cat([row, row]))[:1]

    def _checked(self, logits: Any, x: Tensor) -> Tensor:
        rows = self._rows(logits, x.shape[0])
        self._as_is = rows is logits
        if self.outputs == "any":
            self.shape = logits.shape[1:] if len(x) > 1 or logits.ndim > 1 else logits.shape
        if self.mends_rows and x.shape[0] == 1 and rows.requires_grad:
            self.mends_rows = mend_graph(rows)
        return rows

    def own_kernels(self) -> AbstractContextManager[object]:
        """Use kernels inside that differentiate all layers of the model."""
        return without_cudnn() if self.known.recurrent else NOTHING


def mend_graph(logits: Tensor) -> bool:
    """Make gradients contiguous before normalizations behind the logits; return whether there are any."""
    # torch mixes up the orders of memory of a single image and its gradient (PyTorch 2.13 on a CPU:
    # wrong by 140% to 200% for one row, right for two), as where attention over pixels follows
    norms = [node for node in nodes_of(logits.grad_fn) if "BatchNorm" in type(node).__name__]
    for node in norms:
        node.register_prehook(_contiguous)
    return bool(norms)


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(gradient if gradient is None else gradient.contiguous() for gradient in gradients)
