"""The shards of a construction, in the folder of its keeper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.shards import Shard, read_shard, shard_name, write_index, write_shard
from fastadv.runs import processes
from fastadv.runs.keeper import Keeper


class Store:
    """The shards of the set `config`. All processes of the keeper call its methods together."""

    def __init__(self, keeper: Keeper, config: Mapping[str, Any]) -> None:
        self._keeper, self._config = keeper, config

    def read(self, k: int) -> Shard | None:
        """Shard `k`, verified; None where it is not there."""
        return self._keeper.found(shard_name(k), lambda path: read_shard(path.parent, k, self._config))

    def write(self, k: int, tensors: dict[str, Tensor]) -> Shard:
        """Shard `k`, whose tensors all processes have."""

        def write(path: Path) -> str:
            return write_shard(path.parent, k, tensors, self._config).digest

        return Shard(tensors, self._keeper.write(shard_name(k), write) or "")

    def assemble(self, shards: Mapping[int, Shard], count: int) -> ConstructedSet:
        """Return the set of `count` shards where all are there, with its index; otherwise that of these
        shards.
        """
        complete = processes.from_first(lambda: all(self._keeper.has(shard_name(k)) for k in range(count)))
        if complete:
            others = {k: self.read(k) for k in range(count) if k not in shards}
            shards = {**shards, **{k: shard for k, shard in others.items() if shard is not None}}
        ordered = [shards[k] for k in sorted(shards)]
        tensors = {name: torch.cat([shard.tensors[name] for shard in ordered]) for name in ordered[0].tensors}

        def card() -> dict[str, Any]:
            made = make_card(tensors, self._config)
            if self._keeper.path is None or not complete:
                return made
            found: dict[str, Any] = write_index(self._keeper.path, made, self._config, ordered)["card"]
            return found

        return ConstructedSet(tensors, processes.from_first(card))
