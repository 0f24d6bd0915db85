"""ByRow: the model as given, which is told the ids of its rows, or always sees whole batches."""

from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.engine.arguments import OUTPUTS, Outputs, repeats
from fastadv.engine.plain import Plain
from fastadv.engine.prepared import Model, Prepared, Rows
from fastadv.engine.room import ran_out
from fastadv.errors import InputError

FEWER = (
    "model: expected one that takes any number of rows, got {} at {} of {}; "
    "the attack passes only the rows that are still to be broken; use whole_batches=True"
)
UNKNOWN = (
    "model: expected points of the whole batch in its order, {} rows with ids, got {}; this model knows its "
    "rows by their ids: pass all of them, or make the call with ids="
)


def takes_ids(function: Any) -> bool:
    function = getattr(function, "forward", function) if isinstance(function, nn.Module) else function
    while inner := getattr(function, "func", getattr(function, "__func__", None)):
        function = inner
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and "ids" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


class ByRow(Plain):
    """The model as given, for one that knows more of a row than x: its number, or its place in the batch."""

    # A `size` means batches of that size alone, which rows of the last batch of `of` fill

    halves = False  # parts of a batch would be other rows

    def __init__(
        self, model: Model | Prepared, eot: int = 1, size: int = 0, outputs: Outputs = "classes"
    ) -> None:
        super().__init__(model, eot, outputs=outputs)
        self.size, self._tells = size, takes_ids(self.source)
        none = torch.zeros(0, dtype=torch.long, device="cpu")
        # the samples that are asked about: their ids and places in the batch of which they are a part
        self._ids, self._places, self._batch, self._batch_ids = none, none, none.float(), none

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "size": self.size}

    def having(self, *, eot: int, outputs: Outputs) -> Prepared:
        return ByRow(self.source, eot, self.size, outputs)

    def bind(self, *batch: Any) -> None:
        """Bind nothing: each pass is told its rows."""

    def of(self, x: Tensor, ids: Tensor) -> "ByRow":
        about = copy(self)
        about._ids = ids
        if not self.size or not len(ids):
            return about
        if repeats(ids):
            raise InputError("ids: expected each once with whole_batches, got one twice; number the rows")
        known = ids[:, None] == self._batch_ids[None].to(ids.device)
        if len(self._batch_ids) and bool(known.any(1).all()):  # a part of the batch that is passed
            about._places = known.long().argmax(1)
            return about
        about._places = torch.arange(len(ids), device=x.device) % self.size
        every = torch.arange(self.size, device=x.device) % len(ids)
        about._batch, about._batch_ids = x[every], ids[every]
        return about

    def model_of(self, rows: Rows) -> Model:
        every = torch.arange(len(self._ids), device=self._ids.device) if rows is None else rows
        return partial(self._asked, every)

    def _asked(self, rows: Tensor, x: Tensor) -> Any:
        """Return the logits of points of the rows, or of a single row that passes twice."""
        rows = rows.repeat(2) if len(x) == 2 > len(rows) else rows
        if len(x) != len(rows):
            raise InputError(UNKNOWN.format(len(rows), len(x)))
        model: Any = self.checked.model
        ids = self._ids[rows].to(x.device)
        if not self.size:
            return self._told(model, x, ids)
        left = [*enumerate(self._places[rows].tolist())]
        outputs, order = list[Tensor](), list[Tensor]()
        while left:  # rows of the same place pass in one batch after the other
            chosen: dict[int, int] = {}
            for row, place in left:
                chosen.setdefault(place, row)
            places, some = torch.tensor(list(chosen.items()), device=x.device).unbind(1)
            batch = self._batch.to(x.dtype).index_copy(0, places, x[some])
            logits = self._told(model, batch, self._batch_ids.to(x.device).index_copy(0, places, ids[some]))
            checked = OUTPUTS[self.outputs](logits, self.size)
            outputs.append((checked if self.outputs == "classes" else logits)[places])
            order.append(some)
            left = [(row, place) for row, place in left if chosen[place] != row]
        return torch.cat(outputs)[torch.cat(order).argsort()]

    def _told(self, model: Any, x: Tensor, ids: Tensor) -> Any:
        return model(x, ids=ids) if self._tells else model(x)


def explained(error: Exception, model: Any, x: Any) -> Exception:
    """Return the error of a call; one that names the reason if the model takes batches of one size alone."""
    odd = "model: expected floating logits" in str(error) and "whole_batches" not in str(error)
    clear = isinstance(error, InputError) and not odd
    if clear or ran_out(error) or not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2:
        return error
    with rng.generators_kept(x.device):
        for rows in (x, x[:-1]):
            try:
                ByRow(model).of(rows, torch.arange(len(rows), device=x.device)).verdict(rows)
            except Exception as refused:
                return InputError(FEWER.format(refused, len(rows), len(x))) if rows is not x else error
    return error
