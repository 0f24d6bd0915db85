"""Work in parts: each is read, or made and kept in a folder."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor

from fastadv.errors import InputError
from fastadv.files import load_tensors, read_json, save_tensors, write_json, writing
from fastadv.runs import processes
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

    def __init__(self, folder: str | os.PathLike[str] | None, *, name: str = "run_dir") -> None:
        self._name = name

        def hold() -> Path:
            assert folder is not None
            self._lock = RunFolder(folder, name=name)
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
        if path is None:
            return None
        tensors, metadata = load_tensors(path)
        return (tensors, json.loads(metadata["about"])) if metadata["of"] == seal else None

    def keep(self, file: str, seal: str, tensors: Mapping[str, Tensor], about: Any = None) -> None:
        """Write a part into `file`; nothing without a folder."""
        if self.path is None:
            return
        path = self.path / file
        with writing(path):
            save_tensors(path, tensors, {"of": seal, "about": json.dumps(about)})
