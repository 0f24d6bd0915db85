"""What an evaluation has finished, attack by attack and batch by batch, in the folder of its run.

Shares of one evaluation, which processes that knew nothing of each other made, are put together by `merge`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation._outcome import Part
from fastadv.runs.files import copy_file, load_tensors, read_json, save_tensors, seal, write_json, writing
from fastadv.runs.folder import Keeper, RunFolder
from fastadv.runs.identity import Where, check_same, plain, short

IDENTITY = "evaluation.json"
GROWS = ("attacks", "samples", "data")  # what an evaluation may have more of, and yet be the same


def file_of(name: str) -> str:
    return f"part-{name}.safetensors" if name[0].isdigit() else f"{name}.safetensors"


def share_of(rank: int) -> str:
    """Return the file that says that the share `rank` of an evaluation is done."""
    return f"share-{rank:05d}.json"


class Parts(Keeper):
    """The parts of an evaluation; each process keeps those that it makes."""

    identity: Any = None  # of the evaluation, as its folder says it
    places: Mapping[str, int] = {}  # of the attacks in its folder, by name
    seconds = 0.0  # that the parts which were read took when they were made

    def grow(self, config: Mapping[str, Any]) -> None:
        """Make this the folder of the evaluation `config`, which may have more attacks or samples."""

        def grown(path: Path) -> Any:
            if not path.exists():
                write_json(path, config)
            elif (whole := _joined(path, read_json(path), plain(config))) != read_json(path):
                write_json(path, whole)
            return read_json(path)

        self.identity = self.result(IDENTITY, grown)
        there = [name for name, _ in (self.identity or config)["attacks"]]
        self.places = {name: there.index(name) for name, _ in config["attacks"]}

    def get(self, name: str, known: Mapping[str, Tensor], make: Callable[[], Part], data: str = "") -> Part:
        """Return the part `name` with the tensors `known`: read if it is there, else made and written."""
        # made again where it has another `known`, as by a randomized model, or another evaluation left it
        asked = None if self.identity is None else [self.identity["attacks"][k] for k in self.places.values()]
        of = _seal(self.identity, name, asked)

        def whole() -> Part:
            part = make()
            return Part({**known, **part.tensors}, part.notes)

        def write(path: Path, part: Part) -> None:
            save_tensors(path, part.tensors, {"told": json.dumps(part.notes), "of": of, "data": data})

        return self.kept(file_of(name), whole, write, partial(self._read, of, data, known))

    def finished(self, rank: int, world_size: int, batches: int, attacks: int) -> None:
        """Write that the share `rank` of `world_size` is done."""
        done = {"rank": rank, "world_size": world_size, "batches": batches, "attacks": attacks}
        self.result(share_of(rank), lambda path: write_json(path, {**done, "of": seal(self.identity)}))

    def _read(self, of: str, data: str, known: Mapping[str, Tensor], path: Path) -> Part | None:
        tensors, metadata = load_tensors(path)
        if metadata.get("of") != of:
            return None
        if metadata["data"] != data:
            raise InputError(
                f"{path}: expected the run that wrote it, got one with another dataset= (samples or labels "
                "that are there are others here); add those after them, or choose another folder"
            )
        if not all(key in tensors and torch.equal(tensors[key], known[key]) for key in known):
            return None
        self.seconds += float(tensors.get("seconds", 0.0))  # bounds tell none
        return Part(tensors, json.loads(metadata["told"]))


def _joined(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an evaluation that is in a folder with what `config` has more; InputError for another."""
    if "samples" not in stored:
        raise InputError(
            f"{path}: expected an evaluation that this version began, got one of an earlier version; "
            "finish it there, or choose another folder"
        )
    there, asked = dict(stored["attacks"]), dict(config["attacks"])
    (count,), before = config["samples"], stored["samples"]

    def fixed(of: Mapping[str, Any], attacks: Mapping[str, Any], limit: int) -> dict[str, Any]:
        both = {name: attacks[name] for name in there.keys() & asked.keys()}
        return {key: of[key] for key in of if key not in GROWS} | {"attacks": both, "limit": limit}

    enough = count in before or count > before[-1]
    same = fixed(stored, there, before[-1]), fixed(config, asked, before[-1] if enough else count)
    check_same(path, *same, told=_in_words)
    more = [[name, asked[name]] for name in asked if name not in there]
    samples = before if count in before else [*before, count]
    return {**stored, "attacks": [*stored["attacks"], *more], "samples": samples, "data": config["data"]}


def _in_words(where: Where, stored: Any, now: Any) -> str:
    """Tell an entry that differs by the argument of `evaluate`, or of an attack."""
    top, *inner = where
    if top == "model":
        return f"model (the model's {'weights' if inner == ['weights'] else 'code or options'})"
    there, here = ("not given" if value is None else short(value) for value in (stored, now))
    values = f"({there} there, {here} here)"
    if top == "search" and inner:
        return f"{inner[0]}= {values}"
    if top != "attacks" or not inner:
        return f"{top}= {values}"
    name, *inner = (each for each in inner if each != "keywords")
    if not inner or inner[0] in ("function", "class", "name"):
        return f"attack by the name {name!r} (its code in attacks=)"
    named = "argument" if inner[0] == "args" else f"{inner[0]}="
    part = f"{inner[-1]}: " if len(inner) > 1 else ""
    return f"{named} of {name!r} ({part}{values[1:]}"


def _seal(identity: Any, name: str, asked: Any = None) -> str:
    """Return what says whose part `name` is: one of an attack on a batch, or of all attacks `asked` for."""
    if identity is None:
        return ""
    place = name.partition("-")[2]
    base = {key: value for key, value in identity.items() if key not in GROWS}
    return seal([base, identity["attacks"][int(place)] if place else asked, name])


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
    paths = [Path(folder) for folder in folders]
    shares, identity = _shares(paths)
    count = 0
    with RunFolder(run_dir, shared=True) as opened:
        if (opened.path / IDENTITY).is_file():  # another evaluation must not be lost
            check_same(opened.path / IDENTITY, read_json(opened.path / IDENTITY), identity)
        for rank, (path, share) in sorted(shares.items()):
            for number in range(rank, share["batches"], share["world_size"]):
                for place in range(share["attacks"]):
                    name = f"{number:05d}-{place:02d}"
                    _check_part(path / file_of(name), _seal(identity, name))
                    copy_file(path / file_of(name), opened.path)
                    count += 1
            copy_file(path / share_of(rank), opened.path)
        with writing(opened.path / IDENTITY):
            write_json(opened.path / IDENTITY, identity)
    return {"shares": len(shares), "files": count}


def _shares(paths: Sequence[Path]) -> tuple[dict[int, tuple[Path, dict[str, Any]]], Any]:
    """Return the folder of each share with what its file says, and the identity of the evaluation."""
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    identity: Any = None
    world = 0
    for path in paths:
        files = sorted(path.glob("share-*.json")) if (path / IDENTITY).is_file() else []
        if not files:
            raise InputError(
                f"{path}: expected a finished share of an evaluation, got none; "
                "run its command again with --resume"
            )
        own = read_json(path / IDENTITY)
        identity = own if identity is None else identity
        check_same(path / IDENTITY, own, identity)
        for file in files:
            share = read_json(file)
            world = world or share["world_size"]
            rank = share["rank"]
            if share["of"] != seal(identity) or share["world_size"] != world:
                raise InputError(
                    f"{file}: expected a share of {world} of the same evaluation, got one of "
                    f"{share['world_size']} or of another; merge those that belong together"
                )
            if rank in found:
                raise InputError(
                    f"{file}: expected each share once, got {rank} in {found[rank][0]}, too; leave one out"
                )
            found[rank] = path, share
    missing = [str(rank) for rank in range(world) if rank not in found]
    if missing:
        raise InputError(
            f"folders: expected all {world} shares, got none of {', '.join(missing)}; "
            "run the command of what is missing, with --resume, and merge again"
        )
    return found, identity


def _check_part(path: Path, of: str) -> None:
    """Raise CorruptFileError unless the file is whole, and of this part."""
    if not path.is_file() or load_tensors(path)[1].get("of") != of:
        raise CorruptFileError(
            f"{path}: expected a part of this evaluation, got none or another; "
            "run the command of its share again, with --resume"
        )
