"""Where the shards of a construction are kept: in a folder, or nowhere."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.data.construct.constructed import ConstructedSet, make_card
from fastadv.data.shards import Shard, read_shard, shard_path, write_index, write_shard
from fastadv.runs import processes
from fastadv.runs.folder import RunFolder


class Store:
    """The shards of the set `config`, in a folder that the first process alone reads and writes."""

    def __init__(self, folder: Path | None, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config

    @classmethod
    @contextmanager
    def opened(cls, out_dir: str | PathLike[str] | None, config: Mapping[str, Any]) -> Iterator["Store"]:
        """The store in `out_dir`, which other processes, each with shards of its own, may fill as well."""
        with ExitStack() as stack:

            def hold() -> Path | None:
                if out_dir is None:
                    return None
                return stack.enter_context(RunFolder(out_dir, name="out_dir", shared=True)).path

            yield cls(processes.from_first(hold), config)

    def _there(self, k: int) -> bool:
        return self._folder is not None and shard_path(self._folder, k).exists()

    def read(self, k: int) -> Shard | None:
        """Shard `k`, verified; None where it is not there."""

        def read() -> Shard | None:
            return read_shard(self._folder, k, self._config) if self._folder and self._there(k) else None

        return processes.from_first(read)

    def write(self, k: int, tensors: dict[str, Tensor]) -> Shard:
        """Shard `k`, whose tensors all processes have."""

        def write() -> str:
            return write_shard(self._folder, k, tensors, self._config).digest if self._folder else ""

        return Shard(tensors, processes.from_first(write))

    def assemble(self, shards: Mapping[int, Shard], count: int) -> ConstructedSet:
        """The set of `count` shards where all are there, with its index; otherwise that of these shards."""
        complete = processes.from_first(lambda: all(map(self._there, range(count))))
        if complete:
            others = {k: self.read(k) for k in range(count) if k not in shards}
            shards = {**shards, **{k: shard for k, shard in others.items() if shard is not None}}
        ordered = [shards[k] for k in sorted(shards)]
        tensors = {name: torch.cat([shard.tensors[name] for shard in ordered]) for name in ordered[0].tensors}

        def card() -> dict[str, Any]:
            made = make_card(tensors, self._config)
            if self._folder is None or not complete:
                return made
            found: dict[str, Any] = write_index(self._folder, made, self._config, ordered)["card"]
            return found

        return ConstructedSet(tensors, processes.from_first(card))
