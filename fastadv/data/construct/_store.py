"""The shards of a construction, in the folder of its keeper."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.shards import Shard, read_shard, shard_name, write_index, write_shard
from fastadv.runs import processes
from fastadv.runs.keeper import Keeper


class Store(Keeper):
    """The shards of the set `config`, in a folder into which others may write other shards of it."""

    def __init__(self, out_dir: str | PathLike[str] | None, config: Mapping[str, Any]) -> None:
        super().__init__(out_dir, name="out_dir", shared=True)
        self._config = config

    def read(self, k: int) -> Shard | None:
        """Shard `k`, verified; None where it is not there."""
        return self.found(shard_name(k), lambda path: read_shard(path.parent, k, self._config))

    def write(self, k: int, tensors: dict[str, Tensor]) -> Shard:
        """Shard `k`, whose tensors all processes have."""

        def write() -> str:
            return write_shard(self.path, k, tensors, self._config).digest if self.path else ""

        return Shard(tensors, processes.from_first(write))

    def assemble(self, shards: Mapping[int, Shard], count: int) -> ConstructedSet:
        """Return the set of all `count` shards with its index, where all are there; else that of these."""
        complete = processes.from_first(lambda: all(self.has(shard_name(k)) for k in range(count)))
        if complete:
            others = {k: self.read(k) for k in range(count) if k not in shards}
            shards = {**shards, **{k: shard for k, shard in others.items() if shard is not None}}
        ordered = [shards[k] for k in sorted(shards)]
        tensors = {name: torch.cat([shard.tensors[name] for shard in ordered]) for name in ordered[0].tensors}

        def card() -> dict[str, Any]:
            made = make_card(tensors, self._config)
            if self.path is None or not complete:
                return made
            found: dict[str, Any] = write_index(self.path, made, self._config, ordered)["card"]
            return found

        return ConstructedSet(tensors, processes.from_first(card))
