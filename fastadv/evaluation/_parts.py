"""What an evaluation has finished, attack by attack and batch by batch, in the folder of its run.

Shares of one evaluation, which processes that knew nothing of each other made, are put together by `merge`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation._outcome import Part
from fastadv.runs.files import read_json, seal, write_json
from fastadv.runs.identity import ANSWERS, check_same, plain
from fastadv.runs.work import Keeper, Pieces, read_part
from fastadv.runs.work import merge as merge_pieces

IDENTITY = "evaluation.json"
GROWS = ("attacks", "samples", "data")  # what an evaluation may have more of, and yet be the same


class Parts(Keeper):
    """The parts of an evaluation; each process keeps those that it makes."""

    identity: Any = None  # of the evaluation, as its folder says it
    places: Mapping[str, int] = {}  # of the attacks in its folder, by name
    seconds = 0.0  # that the parts which were read took when they were made

    def grow(self, config: Mapping[str, Any]) -> None:
        """Make this the folder of the evaluation `config`, which may have more attacks or samples."""
        self.identity = self.identify(IDENTITY, config, _joined)
        there = [name for name, _ in (self.identity or config)["attacks"]]
        names = {} if self.identity is None else _names(self.identity, config)
        self.places = {name: there.index(names.get(name, name)) for name, _ in config["attacks"]}

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

    def _seal(self, name: str) -> str:
        return "" if self.identity is None else _seal(self.identity, name, self.places.values())

    def finished(self, rank: int, world_size: int, batches: int, attacks: int) -> None:
        """Write that the share `rank` of `world_size` is done."""
        done: dict[str, Any] = {"rank": rank, "world_size": world_size, "of": _seal_of(self.identity)}
        done |= {"batches": batches, "attacks": attacks}
        self.result(f"share-{rank:05d}.json", partial(write_json, value=done))


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
    more = [[name, asked[name]] for name in asked if name not in there and name not in _names(stored, config)]
    samples = before if count in before else [*before, count]
    return {**stored, "attacks": [*stored["attacks"], *more], "samples": samples, "data": config["data"]}


def _names(stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return which attacks are in a folder by names that nobody asks for, as another threat renames a row."""
    there, asked = dict(stored["attacks"]), dict(config["attacks"])
    if "draws" in config or config["identity"] is not None:  # draws are by name, and an identity hides code
        return {}
    left = {name: about for name, about in there.items() if name not in asked and isinstance(about, dict)}
    pairs = product(asked.keys() - there.keys(), left)
    return {name: other for name, other in pairs if plain(asked[name]) == left[other]}


def _seal(identity: Mapping[str, Any], name: str, places: Iterable[int] = ()) -> str:
    """Return what says whose part `name` is: one of an attack on a batch, or of all attacks at `places`."""
    base = {key: value for key, value in identity.items() if key not in (*GROWS, ANSWERS)}
    attacks, place = identity["attacks"], name.partition("-")[2]
    return seal([base, attacks[int(place)] if place else [attacks[k] for k in places], name])


def _seal_of(identity: Mapping[str, Any]) -> str:
    """Return the seal of an evaluation; answers of other machines differ by rounding."""
    return seal({key: value for key, value in identity.items() if key != ANSWERS})


def merge(folders: Sequence[str | PathLike[str]], run_dir: str | PathLike[str]) -> dict[str, Any]:
    """Put the shares of an evaluation together in one folder.

    `evaluate(..., run_dir=, resume=True)` with the same arguments, without a rank, then reads all and gives
    the table of one process.

    Args:
        folders: where `evaluate(..., rank=, world_size=)` worked, one folder for each share or for several.
        run_dir: the folder to write, which may be one of `folders`.

    Returns:
        The number of shares and of files found.

    Raises:
        InputError: a folder, or `run_dir`, holds no share or one of another evaluation; a share is missing,
            or there twice.
        CorruptFileError: a file is damaged or missing.
    """
    _, shares, files = merge_pieces(folders, run_dir, _SHARES, "run_dir")
    return {"shares": shares, "files": files - 2 * shares}  # beside the identity and the file of each


def _identity_of(path: Path) -> dict[str, Any]:
    home = path.parent / IDENTITY
    if not home.is_file():
        raise InputError(f"{home}: expected what the share beside it is of, got no file; run it again")
    return dict(read_json(home))


def _files_of(path: Path, first: Path) -> list[Path]:
    """Return the files of the share `path`, verified, which belongs to `first`."""
    share, world = read_json(path), read_json(first)["world_size"]
    identity = _identity_of(path)
    if share["of"] != _seal_of(identity) or share["world_size"] != world:
        raise InputError(
            f"{path}: expected a share of {world} of the same evaluation, got one of "
            f"{share['world_size']} or of another; merge those that belong together"
        )
    files = [path.parent / IDENTITY, path]
    for number in range(share["rank"], share["batches"], world):
        for place in range(share["attacks"]):
            name = f"{number:05d}-{place:02d}"
            files.append(path.parent / _file_of(name))
            if not files[-1].is_file() or read_part(files[-1], _seal(identity, name)) is None:
                raise CorruptFileError(
                    f"{files[-1]}: expected a part of this evaluation, got none or another; "
                    "run the command of its share again, with --resume"
                )
    return files


def _total(path: Path) -> int:
    return int(read_json(path)["world_size"])


_SHARED = "finished shares of an evaluation"
_SHARES = Pieces("share", _SHARED, "share-*.json", IDENTITY, _identity_of, _total, _files_of)
