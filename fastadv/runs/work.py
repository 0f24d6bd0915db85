"""Work in parts: each is read, or made and kept in a folder; folders of several jobs become one."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor

from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.files import atomic_write, load_tensors, read_json, save_tensors, write_json, writing
from fastadv.runs.folder import RunFolder
from fastadv.runs.identity import check_same, plain

T = TypeVar("T")
Kept = tuple[dict[str, Tensor], Any]
"""The tensors of a part, and values that can be JSON."""


def same_run(path: Path, stored: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the run that a folder is of; InputError where `config` is another."""
    check_same(path, stored, config)
    return stored


class Keeper:
    """The folder of resumable work, which the first process holds for all; None keeps nothing."""

    _lock: RunFolder | None = None

    def __init__(
        self, folder: str | os.PathLike[str] | None, *, name: str = "run_dir", shared: bool = False
    ) -> None:
        self._name = name

        def hold() -> Path:
            assert folder is not None
            self._lock = RunFolder(folder, name=name, shared=shared)
            return self._lock.path

        self.path = None if folder is None else processes.from_first(hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    # all processes call `begun`, `identify`, `read` and `result` together; `part` and `keep` each by itself
    def begun(self, file: str, resume: bool, what: str, read: Callable[[Path], T]) -> T | None:
        """Return what a run left in `file`, None in a new folder; InputError for one without `resume`."""

        def left(path: Path) -> T:
            if not resume:
                raise InputError(
                    f"{self._name}: expected a new folder, got {path.parent} with {what}; "
                    "pass resume=True or choose another"
                )
            return read(path)

        return self.read(file, left)

    def identify(
        self,
        file: str,
        config: Mapping[str, Any],
        join: Callable[[Path, dict[str, Any], dict[str, Any]], dict[str, Any]] = same_run,
    ) -> Any:
        """Make this the folder of the run `config`, as JSON in `file`, joined to what is there; return it."""

        def joined(path: Path) -> dict[str, Any]:
            if not path.exists():
                write_json(path, config)
            stored = read_json(path)
            whole = join(path, stored, plain(config))
            if whole != stored:
                write_json(path, whole)
            return whole

        return self.result(file, joined)

    def there(self, file: str) -> Path | None:
        """Return where `file` lies; None where it is not there."""
        path = self.path and self.path / file
        return path if path and path.exists() else None

    def read(self, file: str, read: Callable[[Path], T]) -> T | None:
        """Read `file`; None where it is not there."""
        return self._in_first(file, lambda path: read(path) if path.exists() else None)

    def result(self, file: str, write: Callable[[Path], T]) -> T | None:
        """Let `write` write `file` and return what it returns; None without a folder."""

        def written(path: Path) -> T:
            with writing(path):
                return write(path)

        return self._in_first(file, written)

    def _in_first(self, file: str, work: Callable[[Path], T | None]) -> T | None:
        folder = self.path
        return None if folder is None else processes.from_first(lambda: work(folder / file))

    def part(self, file: str, seal: str) -> Kept | None:
        """Return the part in `file`; None where it is not there, or has another seal."""
        path = self.there(file)
        return None if path is None else read_part(path, seal)

    def keep(self, file: str, seal: str, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Write a part into `file`; nothing without a folder."""
        if self.path is None:
            return
        path = self.path / file
        with writing(path):
            save_tensors(path, tensors, {"of": seal, "about": json.dumps(about)})


def read_part(path: Path, seal: str) -> Kept | None:
    """Read a part, verified; None for one with another seal."""
    tensors, metadata = load_tensors(path)
    if "about" not in metadata:
        raise InputError(
            f"{path}: expected a part that this version wrote, got one of another version; finish the run "
            "with that version, or choose another folder"
        )
    return (tensors, json.loads(metadata["about"])) if metadata["of"] == seal else None


@dataclass(frozen=True)
class Pieces:
    """How the pieces of a whole lie in folders: each has a file, whose name ends in its number."""

    name: str
    what: str  # is expected in a folder
    pattern: str  # of those files
    mark: str  # the pattern of files that make a folder one of such work
    config: Callable[[Path], Mapping[str, Any]]  # of a file that `pattern` or `mark` finds: the whole
    total: Callable[[Path], int]  # of a piece: how many there are
    files: Callable[[Path, Path], Sequence[Path]]  # verified, of a piece and one that it belongs to


def merge(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], pieces: Pieces, name: str
) -> tuple[Path, int, int]:
    """Put verified pieces together in the folder `out`; return it, their number and that of their files."""
    places: dict[int, Path] = {}
    for folder in map(Path, folders):
        paths = sorted(folder.glob(pieces.pattern))
        if not paths:
            raise InputError(
                f"{folder}: expected {pieces.what}, got none; check its name, or run its command again with "
                "--resume"
            )
        for path in paths:
            number = int(path.stem.rpartition("-")[2])
            if number in places:
                raise InputError(
                    f"{path}: expected each {pieces.name} once, got it in {places[number].parent}, too; "
                    "leave one out"
                )
            places[number] = path
    first = places[min(places)]
    config, total = pieces.config(first), pieces.total(first)
    for path in places.values():
        check_same(path, pieces.config(path), config)
    if missing := [str(number) for number in range(total) if number not in places]:
        raise InputError(
            f"folders: expected all {total} {pieces.name}s, got none of {', '.join(missing[:8])}"
            f"{' ...' * (len(missing) > 8)}; run the command of what is missing, and merge again"
        )
    files = [file for _, path in sorted(places.items()) for file in pieces.files(path, first)]
    with RunFolder(out, name=name, shared=True) as opened:
        for path in opened.path.glob(pieces.mark):  # another whole must not be lost
            check_same(path, pieces.config(path), config)
        for file in files:
            copy = opened.path / file.name
            if file.resolve() != copy.resolve():
                with writing(copy), atomic_write(copy) as part:
                    shutil.copyfile(file, part)
    return opened.path, len(places), len(files)
