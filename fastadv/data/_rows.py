"""Rows that lie in several tensors one after another, in memory or in files that are mapped while read."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError

KEPT = 256 << 20  # bytes that a process takes from its maps before it lets go of them


def fill_rows(
    rows: Tensor, positions: Tensor, counts: Sequence[int], part: Callable[[int], Tensor]
) -> Tensor:
    """Write into `rows` [B, ...], and return, those at `positions` [B] of parts with `counts` rows each."""
    if len(counts) == 1:  # to look which part has a row waits for a GPU
        return torch.index_select(part(0), 0, positions, out=rows)
    ends = torch.tensor(counts, device=positions.device).cumsum(0)
    number = torch.bucketize(positions, ends, right=True)
    for k in torch.unique(number).tolist():
        here = (number == k).nonzero()[:, 0]
        rows[here] = part(k).index_select(0, positions[here] - (ends[k] - counts[k]))
    return rows


class MappedRows:
    """The tensors `name` of several safetensors files as one, [N, ...]: never in memory as a whole."""

    chosen: Tensor | None = None  # positions in the files, of a subset

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self.files, self.name = tuple(files), name
        self.counts = [len(part) for part in self.pieces()]
        first = self._mapped(0)
        self.dtype, self.shape = first.dtype, torch.Size([sum(self.counts), *first.shape[1:]])
        self.device = torch.device("cpu")
        self._held: dict[int, Tensor] = {}
        self._taken = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def picked(self, positions: Tensor) -> Self:
        """Return the rows at `positions`, int64 [B], in that order, which stay in their files."""
        part, chosen = copy(self), positions.cpu()
        part.chosen, part._held = chosen if self.chosen is None else self.chosen[chosen], {}
        part.shape = torch.Size([len(positions), *self.shape[1:]])
        return part

    def pieces(self) -> Iterator[Tensor]:
        """Yield all rows, those of a file, whose map goes with the tensor, or some picked ones, at a time."""
        if self.chosen is None:
            return map(self._mapped, range(len(self.files)))
        count = max(1, KEPT // 8 * len(self) // max(1, self.nbytes))
        return map(self.take, torch.split(torch.arange(len(self), device="cpu"), count))

    def take(self, positions: Tensor) -> Tensor:
        positions = positions.cpu() if self.chosen is None else self.chosen[positions.cpu()]
        rows = torch.empty((len(positions), *self.shape[1:]), dtype=self.dtype, device="cpu")
        fill_rows(rows, positions, self.counts, self._part)
        self._taken += rows.nbytes
        if self._taken > KEPT:
            self._held, self._taken = {}, 0
        return rows

    def joined(self) -> Tensor:
        rows = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        done = 0
        for part in self.pieces():
            rows[done : done + len(part)] = part
            done += len(part)
        return rows

    def _part(self, k: int) -> Tensor:
        if k not in self._held:
            self._held[k] = self._mapped(k)
        return self._held[k]

    def _mapped(self, k: int) -> Tensor:
        # imported here, because most work needs no files
        from safetensors import SafetensorError, safe_open

        path = self.files[k]
        try:
            with safe_open(path, framework="pt") as file:
                mapped: Tensor = file.get_tensor(self.name)
        except (SafetensorError, OSError) as error:
            raise CorruptFileError(
                f"{path}: expected the file in which a set was found, got none or another ({error}); "
                "leave it there while the set is used"
            ) from error
        return mapped


def names_in(path: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return set(file.keys())
