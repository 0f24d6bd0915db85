"""Files that are whole or absent, and notice damage: written beside their place, flushed, and renamed."""

import errno
import json
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.errors import CorruptFileError, InputError
from fastadv.hashes import digest, seal

# Our metadata is one JSON text, because safetensors writes several entries in no fixed order.
_ENTRY = "fastadv"
_PART = ".part"


def user_cache() -> Path:
    """Return fastadv/ in the user's cache folder, which may not exist yet."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastadv"
    except RuntimeError as error:
        raise InputError(
            "expected a home folder for the cache, got none: set HOME or XDG_CACHE_HOME, or name a folder "
            "for the data (FASTADV_DATA) and for weights (FASTADV_WEIGHTS)"
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
    # created here, so that it has the permissions of any other file of this user
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = part.stat().st_mode
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(mode)  # a writer may have put a private file in its place
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder`; nobody else may be writing there."""
    for part in folder.glob(f".*.????????{_PART}"):
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Turn a full or failing disk into an OSError that names the file, of `size` bytes, and what to do."""
    try:
        yield
    except OSError as error:
        kept = "the previous one is kept" if path.exists() else "other files are kept"
        much = f" ({size / 2**20:.1f} MiB)" if size else ""
        raise OSError(
            error.errno or errno.EIO,
            f"{path}: expected to write {path.name}{much}, got '{error}'; {kept}: free some space and resume",
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, whatever the locale, atomically."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON; CorruptFileError where the file does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, and lists too deep
        raise CorruptFileError(
            f"{path}: expected JSON, got a file that does not parse ({error}); delete it and run again"
        ) from error


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as safetensors, atomically, with hashes; equal contents make equal files."""
    from safetensors.torch import save  # imported here, because most work needs no files

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entry = {"metadata": dict(metadata or {}), "digest": digest(plain)}
    text = json.dumps(entry | {"seal": seal(entry)}, sort_keys=True)
    with atomic_write(path) as part:
        # save_file writes through a temporary file of its own that a kill would leave behind
        part.write_bytes(save(plain, {_ENTRY: text}))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file as (tensors, metadata), checked by its hashes; CorruptFileError if damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise CorruptFileError(
            f"{path}: expected a whole safetensors file, got one that does not read ({error}); make it again"
        ) from error
    if _ENTRY not in metadata and not any('"seal"' in text for text in metadata.values()):
        return tensors, metadata
    try:
        entry = json.loads(metadata[_ENTRY])
        sealed = entry.pop("seal") == seal(entry) and entry["digest"] == digest(tensors)
        known: dict[str, str] = entry["metadata"]
    except (ValueError, KeyError, AttributeError, TypeError):
        sealed = False
    if not sealed:
        raise CorruptFileError(
            f"{path}: expected the contents that its hash names, got others: the file is damaged; "
            "make it again"
        )
    return tensors, known


def load_torch(path: str | os.PathLike[str], what: str, advice: str) -> Any:
    """Read a torch file without running what it may hold; CorruptFileError, which expected `what`."""
    try:
        with warnings.catch_warnings():  # of TorchScript, in torch's words
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        if type(error).__name__ == "UnpicklingError":  # torch would advise to run what the file holds
            reason = "it holds Python objects, which are not run, or is no torch file"
        raise CorruptFileError(
            f"{path}: expected {what}, got one that does not read ({reason}); {advice}"
        ) from error
