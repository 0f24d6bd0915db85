"""What an attack knows of each sample, and the rows that a rule keeps beside it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(eq=False)
class Record:
    """The best point of each sample, and what was met on the way.

    `x_adv` is the best point so far, `rank` its place in the order of the search (its loss, or minus its
    distance), `success` whether it is a success. `refuted`: the model as given once denied a success that the
    search twin saw. `not_finite`: a logit was not finite. `largest_gradient`: the largest absolute gradient
    element so far; NaN where one was, -inf where no gradient was taken.
    """

    x_adv: Tensor
    rank: Tensor
    success: Tensor
    refuted: Tensor
    not_finite: Tensor
    largest_gradient: Tensor

    @classmethod
    def start(cls, x: Tensor) -> "Record":
        """Make the record of samples x [B, ...] of which nothing is known yet."""
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        wide = torch.promote_types(x.dtype, torch.float32)
        rank = torch.full((len(x),), -torch.inf, dtype=wide, device=x.device)
        return cls(x.clone(), rank, none, none.clone(), none.clone(), rank.clone())

    @property
    def distance(self) -> Tensor:
        """[n] that of the nearest success so far, inf where there is none; in an attack for the minimum."""
        return -self.rank

    def take(self, index: Tensor) -> "Record":
        """Return the rows `index`, copied."""
        return Record(*(value[index] for value in vars(self).values()))

    def put(self, index: Tensor, rows: "Record") -> None:
        """Overwrite the rows `index`."""
        for name, value in vars(self).items():
            value[index] = getattr(rows, name).to(value.dtype)


class Rows:
    """What a rule remembers of the samples still under attack: tensors [n, ...] set as attributes.

    A rule subclasses it and annotates the names; any other raises AttributeError. The search drops the rows
    of samples that leave. Attributes that are no tensors stay as they are.
    """

    _names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        declared = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())}
        cls._names = frozenset(name for name in declared if name != "_names")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._names:
            raise AttributeError(
                f"{type(self).__name__}: expected one of {sorted(self._names)}, got {name!r}; "
                "annotate it in the class"
            )
        vars(self)[name] = value

    def take(self, kept: Tensor) -> None:
        """Keep the rows `kept` alone."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                vars(self)[name] = value[kept]


class Climb(Rows):
    """The points [n, ...] of the largest loss so far, and that loss [n]."""

    best: Tensor
    loss: Tensor
