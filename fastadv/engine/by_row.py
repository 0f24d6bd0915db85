"""ByRow: the model as given, which is told the ids of its rows, or always sees whole batches."""

from typing import Any

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.engine.arguments import OUTPUTS, Outputs
from fastadv.engine.plain import Plain
from fastadv.engine.prepared import Model, Prepared
from fastadv.engine.room import ran_out
from fastadv.errors import InputError

FEWER = (
    "model: expected one that takes any number of rows, got {} at {} of {}; "
    "the attack passes only the rows that are still to be broken; use whole_batches=True"
)


def takes_ids(function: Any) -> bool:
    function = getattr(function, "forward", function) if isinstance(function, nn.Module) else function
    while inner := getattr(function, "func", getattr(function, "__func__", None)):
        function = inner
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and "ids" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


class ByRow(Plain):
    """The model as given, for one that knows more of a row than x: its number, or its place in the batch."""

    # A `size` means batches of that size alone; rows of `begin` fill those that were not asked for

    halves = False  # parts of a batch would be other rows

    def __init__(
        self, model: Model | Prepared, eot: int = 1, size: int = 0, outputs: Outputs = "classes"
    ) -> None:
        super().__init__(model, eot, outputs=outputs)
        self.size, self._tells, self.checked.call = size, takes_ids(self.source), self._rows
        none = torch.zeros(0, dtype=torch.long, device="cpu")
        # The last batch: its rows, their ids and places; then the ids of the rows that pass next
        self._batch, self._ids, self._places = none.float(), none, dict[int, int]()
        self._asked, self._next = none, 0

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "size": self.size}

    def taking(self, outputs: Outputs) -> Prepared:
        return ByRow(self.source, self.eot, self.size, outputs)

    def bind(self, *batch: Any) -> None:
        """Bind nothing: whose rows pass next is said before each pass."""

    def begin(self, x: Tensor, ids: Tensor) -> None:
        numbers = ids.tolist() if self.size else []
        if len({*numbers}) < len(numbers):
            raise InputError("ids: expected each once with whole_batches, got one twice; number the rows")
        if not self._places.keys() >= {*numbers}:
            self._places = {number: place % self.size for place, number in enumerate(numbers)}
            every = torch.arange(self.size, device=x.device) % len(numbers)
            self._batch, self._ids = x[every], ids[every]
        self.asks_for(ids)

    def asks_for(self, ids: Tensor, each: int = 1) -> None:
        self._asked, self._next = ids if each == 1 else ids.repeat_interleave(each), 0

    def taken(self, x: object, rows: Tensor | None = None) -> Tensor:
        before = self._next
        x = super().taken(x, rows)
        self._next = before  # it may have tried a few rows
        return x

    def _rows(self, model: Any, x: Tensor) -> Any:
        """Return the logits of the rows that were asked for next, over and over; an attack may pass parts."""
        count = max(1, len(self._asked))
        ids = self._asked.roll(-self._next).repeat(-(-len(x) // count))[: len(x)].to(x.device)
        self._next = (self._next + len(x)) % count
        if not self.size:
            return self._told(model, x, ids)
        left = [(self._places.get(number, 0), row) for row, number in enumerate(ids.tolist())]
        outputs, order = list[Tensor](), list[Tensor]()
        while left:  # rows of the same place pass in one batch after the other
            chosen: dict[int, int] = {}
            for place, row in left:
                chosen.setdefault(place, row)
            places, rows = torch.tensor(list(chosen.items()), device=x.device).unbind(1)
            batch = self._batch.to(x.dtype).index_copy(0, places, x[rows])
            logits = self._told(model, batch, self._ids.index_copy(0, places, ids[rows]))
            checked = OUTPUTS[self.outputs](logits, self.size)
            outputs.append((checked if self.outputs == "classes" else logits)[places])
            order.append(rows)
            left = [(place, row) for place, row in left if chosen[place] != row]
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
                ByRow(model).verdict(rows)
            except Exception as refused:
                return InputError(FEWER.format(refused, len(rows), len(x))) if rows is not x else error
    return error
