"""What an evaluation has finished, attack by attack and batch by batch, in the folder of its run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import InputError
from fastadv.hashes import seal
from fastadv.measure.outcome import Part
from fastadv.runs.identity import ANSWERS, check_same
from fastadv.runs.work import Keeper

IDENTITY = "evaluation.json"
GROWS = ("attacks", "samples", "data")  # what an evaluation may have more of, and yet be the same


class Parts(Keeper):
    """The parts of an evaluation; each process keeps those that it makes."""

    identity: Any = None  # of the evaluation, as its folder says it
    places: Mapping[str, int] = {}  # of the attacks in its folder, by name
    samples: Sequence[int] = ()  # the numbers of samples that it has had, the last being the present one
    seconds = 0.0  # that the parts which were read took when they were made

    def grow(self, config: Mapping[str, Any]) -> None:
        """Make this the folder of the evaluation `config`, which may have more attacks or samples."""
        self.identity = self.identify(IDENTITY, config, _joined)
        known = self.identity or config
        self.samples, there = known["samples"], [name for name, _ in known["attacks"]]
        self.places = {name: there.index(name) for name, _ in config["attacks"]}

    def kept(self, name: str, known: Mapping[str, Tensor], data: str = "") -> Part | None:
        """Return the part `name` with the tensors `known`; None where it is not there, or has others."""
        file = _file_of(name)
        kept = self.part(file, self._seal(name))
        if kept is None:
            return None
        tensors, about = kept
        if about["data"] != data:
            raise InputError(
                f"{self.path}/{file}: expected the run that wrote it, got one with another dataset= (samples "
                "or labels that are there are others here); add those after them, or choose another folder"
            )
        # other tensors `known`, as by a randomized model
        if not all(key in tensors and torch.equal(tensors[key], known[key]) for key in known):
            return None
        self.seconds += float(tensors.get("seconds", 0.0))
        return Part(tensors, about["notes"])

    def add(self, name: str, known: Mapping[str, Tensor], part: Part, data: str = "") -> None:
        """Keep the part `name`, with the tensors `known`."""
        about = {"notes": part.notes, "data": data}
        self.keep(_file_of(name), self._seal(name), {**known, **part.tensors}, about)

    def seal_of(self, about: Any) -> str:
        """Return what says whose part it is: one of this evaluation, whatever attacks and samples it has."""
        return "" if self.identity is None else seal([_base(self.identity), about])

    def _seal(self, name: str) -> str:
        return "" if self.identity is None else _seal(self.identity, name, self.places.values())


def _file_of(name: str) -> str:
    return f"part-{name}.safetensors" if name[0].isdigit() else f"{name}.safetensors"


def _joined(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation that is in a folder with what `config` has more; InputError for another."""
    there, asked = dict(stored["attacks"]), dict(config["attacks"])
    (count,), before = config["samples"], stored.get("samples", [0])

    def fixed(whole: Mapping[str, Any], attacks: Mapping[str, Any], limit: int) -> dict[str, Any]:
        both = {name: attacks[name] for name in there.keys() & asked.keys()}
        return {key: whole[key] for key in whole if key not in GROWS} | {"attacks": both, "limit": limit}

    enough = count in before or count > before[-1]
    check_same(path, fixed(stored, there, before[-1]), fixed(config, asked, before[-1] if enough else count))
    more = [[name, asked[name]] for name in asked if name not in there]
    samples = before if count in before else [*before, count]
    return {**stored, "attacks": [*stored["attacks"], *more], "samples": samples, "data": config["data"]}


def _base(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in (*GROWS, ANSWERS)}


def _seal(identity: Mapping[str, Any], name: str, places: Iterable[int] = ()) -> str:
    """Return what says whose part `name` is: one of an attack on a batch, or of all attacks at `places`."""
    attacks, place = identity["attacks"], name.partition("-")[2]
    return seal([_base(identity), attacks[int(place)] if place else [attacks[k] for k in places], name])
