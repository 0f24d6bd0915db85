"""Where files of weights lie, and whether they are what they were."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from fastadv.errors import CorruptFileError, InputError
from fastadv.models.zoo.entries import Entry
from fastadv.runs.files import read_json, user_cache, write_json

_log = logging.getLogger("fastadv")

ENDINGS = (".pt", ".safetensors")
HASHES = "hashes.json"


def weights_folder() -> Path:
    """Return the cache: the folder FASTADV_WEIGHTS, else fastadv/models in the user's cache."""
    named = os.environ.get("FASTADV_WEIGHTS")
    return Path(named).expanduser() if named else user_cache() / "models"


def locate(entry: Entry, weights: str | os.PathLike[str] | None) -> Path:
    """Return the file of weights: `weights`, in that folder, or in the cache; InputError if it is absent."""
    given = weights_folder() if weights is None else Path(weights).expanduser()
    if given.is_file():
        return given
    stems = (given / entry.path, given / entry.name)
    places = [stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS]
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"{entry.path}: expected its weights in {places[0] if weights is None or given.is_dir() else given}, "
        f"got no such file; RobustBench keeps them at {entry.url}: put the file "
        "there, or give it as weights (--weights FILE)"
    )


def check_hash(path: Path) -> str:
    """Return the SHA-256 of a file, compared with that of its first load if `keep_hash` kept one.

    CorruptFileError where the file has changed.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    first = _known().get(str(path.resolve()))
    if first not in (None, found):
        raise CorruptFileError(
            f"{path}: expected SHA-256 {first}, as at its first load, got {found}: the file is damaged or "
            f"another; put the first one back, or, if this one is right, delete its line in {_record()}"
        )
    return found


def keep_hash(path: Path, found: str) -> None:
    """Keep the SHA-256 of a file that was loaded in hashes.json of the cache."""
    known, key = _known(), str(path.resolve())
    if key in known:
        return
    try:
        write_json(_record(), {**known, key: found})
    except OSError as error:
        _log.warning("%s: the SHA-256 of weights could not be kept (%s)", _record(), error)


def _record() -> Path:
    return weights_folder() / HASHES


def _known() -> dict[str, str]:
    """Return the kept hashes by path."""
    known: Any = read_json(_record()) if _record().is_file() else {}
    if not isinstance(known, dict):
        raise CorruptFileError(
            f"{_record()}: expected the SHA-256 of each file by its path, got {type(known).__name__}; "
            "delete the file"
        )
    return known
