"""ByRow: the model as given, which is told the ids of its rows, or always sees whole batches."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fastadv import rng
from fastadv.engine.arguments import check_model, indices, labels_for
from fastadv.engine.copying.twin import as_module
from fastadv.engine.plain import Plain
from fastadv.engine.precision import no_autocast, no_gradient, with_gradient
from fastadv.engine.prepared import Directions, Loss, Model, Prepared
from fastadv.engine.room import ran_out
from fastadv.errors import InputError, NoGradientError

# (a batch, places int64 [m] in it, rows int64 [m] of what was asked) -> tensors [m, ...]
Run = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def takes_ids(function: Any) -> bool:
    """Return whether a model or a loss has an argument `ids`."""
    function = getattr(function, "forward", function) if isinstance(function, nn.Module) else function
    function = getattr(function, "__func__", getattr(function, "__wrapped__", function))
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and "ids" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


class _Told(nn.Module):
    """A module that gets the ids of its rows as an argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, model.training
        self.ids = torch.zeros(1, dtype=torch.long)

    def forward(self, x: Tensor) -> Any:
        return self.model(x, ids=_repeated(self.ids, len(x)))


FEWER = (
    "model: expected one that takes any number of rows, got {} at {} of {}; "
    "the attack passes only the rows that are still to be broken; use whole_batches=True"
)


def explained(error: Exception, model: Any, x: Any) -> Exception:
    """Return the error of a call; one that names the reason if the model takes batches of one size alone."""
    known = isinstance(error, NoGradientError) or ran_out(error) or "whole_batches" in str(error)
    other = isinstance(error, InputError) and not str(error).startswith("model: ")
    if known or other or not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 2:
        return error
    source = model.source if isinstance(model, Prepared) else model
    with rng.generators_kept(x.device):
        for rows in (x, x[:-1]):
            try:
                (ByRow if takes_ids(source) else Plain)(source).verdict(rows)
            except Exception as refused:
                return InputError(FEWER.format(refused, len(rows), len(x))) if rows is not x else error
    return error


def _repeated(ids: Tensor, count: int) -> Tensor:
    """Return so many ids: fewer where the first rows are tried alone, more where a row passes twice."""
    return ids.repeat(-(-count // max(1, len(ids))))[:count]


class ByRow(Prepared):
    """The model as given, for one that knows more of a row than x.

    An attack passes the rows that are still to be broken. If the model has an argument `ids`, it gets their
    sample numbers. With a `size` it sees batches of that size alone, in which each row keeps its place; those
    that were not asked for are filled with the rows of `begin`, and do not count.
    """

    def __init__(self, model: Model | Prepared, eot: int = 1, size: int = 0) -> None:
        source = model.source if isinstance(model, Prepared) else model
        check_model(source)
        module, self._ids = as_module(source), torch.zeros(1, dtype=torch.long)
        self._tells, told = takes_ids(source), source
        if self._tells and module is not None:
            told = _Told(module)
        elif self._tells:

            def told(x: Tensor) -> Tensor:
                logits: Tensor = source(x, ids=_repeated(self._ids, len(x)))  # type: ignore[call-arg]
                return logits

        self._plain = plain = Plain(told)
        plain.halves = False
        super().__init__(plain._given, source, eot, plain.dtype, plain.device)
        self.size = size
        self._batch, self._numbers = torch.zeros(0), torch.zeros(0, dtype=torch.long)
        self._places: dict[int, int] = {}
        self._asked, self._next = torch.zeros(0, dtype=torch.long), 0

    @property
    def notes(self) -> tuple[str, ...]:
        return self._plain.notes

    def add_note(self, note: str) -> None:
        self._plain.add_note(note)

    def describe(self) -> dict[str, Any]:
        return {**self._plain.describe(), "eot": self.eot, "size": self.size}

    @property
    def exact(self) -> bool:
        return self.eot == 1

    def begin(self, x: Tensor, ids: Tensor) -> None:
        numbers = ids.tolist()
        if self.size and numbers and not all(number in self._places for number in numbers):
            self._places = {number: place % self.size for place, number in enumerate(numbers)}
            every = torch.arange(self.size, device=x.device) % len(numbers)
            self._batch, self._numbers = x[every], ids[every]
        self.asks_for(ids)

    def asks_for(self, ids: Tensor, each: int = 1) -> None:
        self._asked, self._next = ids if each == 1 else ids.repeat_interleave(each), 0

    def _verdict(self, x: Tensor) -> Tensor:
        return self._each(x, lambda batch, places, rows: (self._plain._verdict(batch)[places],))[0]

    def __call__(self, x: Tensor) -> Tensor:
        with no_gradient():
            made = [self._as_given(self._verdict, x) for _ in range(self.eot)]
        return made[0] if self.eot == 1 else torch.stack(made).mean(0)

    def input_gradient(
        self,
        x: Tensor,
        y: Tensor | None,
        loss: Loss = "ce",
        targets: Tensor | None = None,
        direction: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, targets = indices("y", y), indices("targets", targets)
        labels = labels_for(loss, y, targets)

        def run(batch: Tensor, places: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            own = None if labels is None else labels[rows]
            aims = None if targets is None else targets[rows]
            made = [
                self._plain.attached(batch).gradient(
                    places, cast(Tensor, own), loss, aims, direction and self.eot == 1
                )
                for _ in range(self.eot)
            ]
            return tuple(torch.stack(each).mean(0) for each in zip(*made, strict=True))

        with with_gradient(), no_autocast(x.device.type):
            x = self._checked(x)
            value, logits, gradient = self._each(x, run)
        self.forwards += self.eot * len(x)
        self.backwards += self.eot * len(x)
        return value, logits, gradient

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        def run(batch: Tensor, places: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            def each(logits: Tensor) -> Tensor:
                chosen = directions(logits[places]) if callable(directions) else directions[rows]
                return chosen.new_zeros(len(logits), *chosen.shape[1:]).index_copy_(0, places, chosen)

            logits, gradients = self._plain.jacobian(batch, each, reduce)
            return logits[places], gradients[places]

        x = self._checked(x)
        made = [self._each(x, run) for _ in range(self.eot)]
        logits, gradients = (torch.stack(each).mean(0) for each in zip(*made, strict=True))
        self.forwards += self.eot * len(x)
        self.backwards += self.eot * gradients.shape[:2].numel()
        return logits, gradients

    def _each(self, x: Tensor, run: Run) -> tuple[Tensor, ...]:
        """Return what `run` makes of the rows of x, which come in the order in which they were asked for."""
        count = max(1, len(self._asked))
        asked = self._asked.roll(-self._next)
        ids = asked.repeat(-(-len(x) // count))[: len(x)].to(x.device)
        self._next = (self._next + len(x)) % count
        if not self.size:
            self._tell(ids)
            every = torch.arange(len(x), device=x.device)
            return run(x, every, every)
        left = [(self._places.get(number, 0), row) for row, number in enumerate(ids.tolist())]
        made, order = list[tuple[Tensor, ...]](), list[Tensor]()
        while left:  # rows of the same place pass in one batch after the other
            chosen: dict[int, int] = {}
            for place, row in left:
                chosen.setdefault(place, row)
            places, rows = torch.tensor(list(chosen.items()), device=x.device).unbind(1)
            self._tell(self._numbers.index_copy(0, places, ids[rows]))
            made.append(run(self._batch.to(x.dtype).index_copy(0, places, x[rows]), places, rows))
            order.append(rows)
            left = [(place, row) for place, row in left if chosen[place] != row]
        back = torch.cat(order).argsort()
        return tuple(torch.cat(parts)[back] for parts in zip(*made, strict=True))

    def _tell(self, ids: Tensor) -> None:
        self._ids = ids
        if isinstance(self._plain.model, _Told):
            self._plain.model.ids = ids
