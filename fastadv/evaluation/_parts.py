"""What an evaluation has finished, attack by attack and batch by batch, in the folder of its run."""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.evaluation._outcome import Part
from fastadv.runs.files import load_tensors, save_tensors, seal, write_json
from fastadv.runs.keeper import Keeper

IDENTITY = "evaluation.json"


def file_of(name: str) -> str:
    """Return the file of the part `name`."""
    return f"part-{name}.safetensors" if name[0].isdigit() else f"{name}.safetensors"


def share_of(rank: int) -> str:
    """Return the file that says that the share `rank` of an evaluation is done."""
    return f"share-{rank:05d}.json"


class Parts(Keeper):
    """The parts of an evaluation; each process keeps those that it makes."""

    identity: Any = None  # of the evaluation, as its folder says it
    seconds = 0.0  # that the parts which were read took when they were made

    def __init__(self, folder: str | os.PathLike[str] | None, *, shared: bool = False) -> None:
        super().__init__(folder, shared=shared)

    def get(self, name: str, known: Mapping[str, Tensor], make: Callable[[], Part]) -> Part:
        """Return the part `name` with the tensors `known`: read if it is there, else made and written.

        A part that was written with another `known`, as by a randomized model, is made again, and so is one
        that another evaluation left. Those of batches, which begin with a number, are in files `part-NAME`.
        """
        of = seal([self.identity, name])

        def whole() -> Part:
            part = make()
            part.tensors = {**known, **part.tensors}
            return part

        def write(path: Path, part: Part) -> None:
            save_tensors(path, part.tensors, {"told": json.dumps(part.told), "of": of})

        return self.kept(file_of(name), whole, write, partial(self._read, of, known))

    def finished(self, rank: int, world_size: int, batches: int, attacks: int) -> None:
        """Write that the share `rank` of `world_size` is done."""
        done = {"rank": rank, "world_size": world_size, "batches": batches, "attacks": attacks}
        self.result(share_of(rank), lambda path: write_json(path, {**done, "of": seal(self.identity)}))

    def _read(self, of: str, known: Mapping[str, Tensor], path: Path) -> Part | None:
        tensors, metadata = load_tensors(path)
        same = all(key in tensors and torch.equal(tensors[key], known[key]) for key in known)
        if not same or metadata.get("of") != of:
            return None
        self.seconds += float(tensors.get("seconds", 0.0))  # bounds tell none
        return Part(tensors, json.loads(metadata["told"]))
