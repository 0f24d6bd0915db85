"""Where files of weights lie, and whether they are what they were."""

import hashlib
import logging
import os
from pathlib import Path

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
        f"got no such file; RobustBench keeps them at https://drive.google.com/file/d/{entry.drive}: put "
        "the file there, or give it as weights (--weights FILE)"
    )


def check_hash(path: Path) -> None:
    """Compare a file with its SHA-256 at the first load, which is kept beside the cache.

    CorruptFileError where the file has changed.
    """
    record, key = weights_folder() / HASHES, str(path.resolve())
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known: dict[str, str] = read_json(record) if record.is_file() else {}
    first = known.get(key)
    if first is None:
        _keep(record, {**known, key: found})
    elif first != found:
        raise CorruptFileError(
            f"{path}: expected SHA-256 {first}, as at its first load, got {found}: the file is damaged or "
            f"another; put the first one back, or, if this one is right, delete its line in {record}"
        )


def _keep(record: Path, hashes: dict[str, str]) -> None:
    try:
        write_json(record, hashes)
    except OSError as error:
        _log.warning("%s: the SHA-256 of weights could not be kept (%s)", record, error)
