"""CheckedModel: one pass of a model, whose outputs are checked."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv._torch import nodes_of, version
from fastadv.engine.arguments import OUTPUTS, Outputs
from fastadv.engine.first_pass import FirstPass, check_channels
from fastadv.engine.precision import no_autocast
from fastadv.errors import InputError
from fastadv.rng import generators_kept

WRITES = (
    "model: expected a model that leaves x as it is, got one that writes into it; "
    "let its forward begin with x = x.clone()"
)
Model = Callable[[Tensor], Any]


class CheckedModel:
    """A model whose outputs are checked, and returned as rows [B, K] that no later pass writes.

    The first pass of each kind, with a gradient or without, of a single row or of several, shows what an odd
    model needs. That is put around it, and later passes are calls of `model` and no more.

    Attributes:
        model: the model, with what it needs around it.
        mends_rows: whether torch may get the gradient of a single row wrong, until a graph tells otherwise.
        shape: of what a sample gave last, where outputs may be any.
        as_is: whether its last outputs were taken as they are.
        copies: whether the model is given copies of x, into which it writes.
    """

    def __init__(
        self, model: Model, mends_rows: bool, dtype: torch.dtype | None = None, outputs: Outputs = "classes"
    ) -> None:
        """Take a model whose weights are in `dtype`."""
        self.model = self._given = model
        self.mends_rows, self.dtype, self.outputs = mends_rows, dtype, outputs
        self.shape: torch.Size | None = None
        self.copies = False
        self._passed = set[tuple[bool, bool]]()  # kinds: with a gradient, of a single row
        self.as_is = False
        self._seen: dict[torch.dtype, torch.dtype] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at x."""
        size, follows = x.shape[0], torch.is_grad_enabled()
        kind = follows, size == 1
        if kind in self._passed or not size:
            before, outputs = version(x), self.model(x)
            if version(x) != before:
                raise InputError(WRITES)
        else:
            outputs = self._first(x, kind)
        rows = OUTPUTS[self.outputs](outputs, size)
        self.as_is = rows is outputs
        if self.outputs == "any":
            self.shape = outputs.shape[1:] if size > 1 or outputs.ndim > 1 else outputs.shape
        return rows if follows else rows.clone()

    def _first(self, x: Tensor, kind: tuple[bool, bool]) -> Any:
        """Return the outputs of the first pass of a kind, of a copy of x."""
        points = x.clone()
        before, run = version(points), self._of_row if x.shape[0] == 1 else self.model
        with FirstPass(self._given):
            try:
                outputs = run(points)
            except RuntimeError as error:
                if "channels" in str(error):  # as convolutions say it
                    check_channels(self.model, x)
                raise
        if version(points) != before:
            self.copies, self.model = True, partial(_of_copy, self.model)
        if self.mends_rows and kind == (True, True):
            self.mends_rows = mend_graph(outputs)
            self.model = partial(_mended, self.model) if self.mends_rows else self.model
        self._passed.add(kind)
        return outputs

    def _of_row(self, row: Tensor) -> Any:
        """Return the outputs at a single row; where these fail, of two equal rows from now on."""
        before = version(row)
        try:
            return self.model(row)
        except Exception as error:  # models raise anything
            # it may squeeze its features; a norm of the batch has no statistics of equal rows either
            if isinstance(error, InputError) or "more than 1 value" in str(error) or version(row) != before:
                raise
            with suppress(Exception):
                outputs = _of_pair(self.model, row)
                self.model = partial(_of_pair, self.model)
                return outputs
            raise

    # The dtype in which the model sees x.

    def sees(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the model sees inputs of that dtype."""
        return self._seen.get(dtype, self.dtype or dtype)

    def learn_dtype(self, x: Tensor) -> int:
        """Learn in which dtype the model sees inputs like x; return how many rows that passed."""
        if self.dtype in (None, x.dtype) or x.dtype in self._seen or not x.shape[0]:
            return 0
        # It may prepare images in float32 and go on otherwise, so x is cast only where it is refused as it is
        some = x[:2].detach().clone()
        self._seen[x.dtype] = self.dtype
        with torch.no_grad(), generators_kept(x.device), no_autocast(x.device.type), suppress(Exception):
            with FirstPass(self._given):
                self.model(some)
            self._seen[x.dtype] = x.dtype
        return len(some)


# What is put around odd models.


def _of_copy(model: Model, x: Tensor) -> Any:
    return model(x.clone())


def _of_pair(model: Model, x: Tensor) -> Any:
    return model(torch.cat([x, x]))[:1] if x.shape[0] == 1 else model(x)


def _mended(model: Model, x: Tensor) -> Any:
    outputs = model(x)
    if x.shape[0] == 1:
        mend_graph(outputs)
    return outputs


def mend_graph(outputs: Any) -> bool:
    """Make gradients contiguous before normalizations behind outputs; return whether there are any."""
    # torch mixes up the orders of memory of a single image and its gradient (PyTorch 2.13 on a CPU:
    # wrong by 140% to 200% for one row, right for two), as where attention over pixels follows
    nodes = nodes_of(getattr(outputs, "grad_fn", None))
    norms = [node for node in nodes if "BatchNorm" in type(node).__name__]
    for node in norms:
        node.register_prehook(_contiguous)
    return bool(norms)


def _contiguous(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(gradient if gradient is None else gradient.contiguous() for gradient in gradients)
