"""The shards of a construction, in the folder of its keeper."""

import json
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.shards import Shard, joined, read_shard, shard_name, write_index, write_shard
from fastadv.runs import processes
from fastadv.runs.files import load_tensors, save_tensors
from fastadv.runs.identity import check_same, plain
from fastadv.runs.keeper import Keeper


class Store(Keeper):
    """The shards of the set `config`, in a folder into which others may write other shards of it.

    Each process reads and writes shards of its own; `assemble` is called by all together.
    """

    def __init__(self, out_dir: str | PathLike[str] | None, config: Mapping[str, Any]) -> None:
        super().__init__(out_dir, name="out_dir", shared=True)
        self._config = plain(config)

    def read(self, k: int) -> Shard | None:
        """Shard `k`, verified; None where it is not there."""
        there = self.path is not None and self.has(shard_name(k))
        return read_shard(self.path, k, self._config) if self.path is not None and there else None

    def write(self, k: int, tensors: dict[str, Tensor]) -> Shard:
        """Shard `k`; its file takes the place of the rows that a stopped process left of it."""
        if self.path is None:
            return Shard(tensors)
        shard = write_shard(self.path, k, tensors, self._config)
        self._rows_file(k).unlink(missing_ok=True)
        return shard

    def keep(self, k: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep the first rows of shard `k` for a process that goes on, if the disk lets us."""
        if self.path is not None:
            with suppress(OSError):
                save_tensors(self._rows_file(k), tensors, {"rows": json.dumps(self._config, sort_keys=True)})

    def unfinished(self, k: int) -> dict[str, Tensor]:
        """Return the first rows of shard `k` that a stopped process left; none where there are none."""
        if self.path is None or not self._rows_file(k).exists():
            return {}
        tensors, metadata = load_tensors(self._rows_file(k))
        check_same(self._rows_file(k), json.loads(metadata["rows"]), self._config)
        return tensors

    def assemble(self, shards: dict[int, Shard], count: int) -> ConstructedSet:
        """Return the set of all `count` shards with its index, where all are there; else that of these."""
        complete = processes.from_first(lambda: all(self.has(shard_name(k)) for k in range(count)))
        others = [k for k in range(count) if k not in shards] if complete else []
        for k, shard in zip(
            others, processes.in_turn(len(others), lambda i: self.read(others[i])), strict=True
        ):
            if shard is not None:
                shards[k] = shard
        ordered = [shards.pop(k) for k in sorted(shards)]
        tensors = joined(ordered)

        def card() -> dict[str, Any]:
            made = make_card(tensors, self._config)
            if self.path is None or not complete:
                return made
            found: dict[str, Any] = write_index(self.path, made, self._config, ordered)["card"]
            return found

        return ConstructedSet(tensors, processes.from_first(card))

    def _rows_file(self, k: int) -> Path:
        assert self.path is not None
        return self.path / f"rows-{k:05d}.safetensors"
