"""The keeper of resumable work: what lies in the folder of a run is read, all else is made and written."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.files import read_json, write_json, writing
from fastadv.runs.folder import RunFolder
from fastadv.runs.identity import check_same

T = TypeVar("T")


class Keeper:
    """The folder of resumable work, locked until `close`. Without a folder nothing is kept.

    Of several processes the first one holds the folder for all. `begun`, `identify`, `found` and `result` are
    called by all together: the first one reads or writes, and all get what it read, or its error. `kept` is
    for one process and a file of its own.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, *, name: str = "run_dir", shared: bool = False
    ) -> None:
        self._lock: RunFolder | None = None
        self._name = name

        def hold() -> Path | None:
            if folder is None:
                return None
            self._lock = RunFolder(folder, name=name, shared=shared)
            return self._lock.path

        self.path = processes.from_first(hold)

    def begun(self, file: str, resume: bool, what: str, read: Callable[[Path], T]) -> T | None:
        """Return what a run left in `file`, None in a new folder; InputError for one without `resume`."""

        def own(path: Path) -> T:
            if not resume:
                raise InputError(
                    f"{self._name}: expected a new folder, got {path.parent} with {what}; "
                    "pass resume=True or choose another"
                )
            return read(path)

        return self.found(file, own)

    def identify(self, file: str, config: Mapping[str, Any]) -> Any:
        """Make this the folder of the run `config`, as JSON in `file`, and return that."""

        def own(path: Path) -> Any:
            if path.exists():
                check_same(path, read_json(path), config)
            else:
                write_json(path, config)
            return read_json(path)

        return self.result(file, own)

    def has(self, file: str) -> bool:
        return self.path is not None and (self.path / file).exists()

    def found(self, file: str, read: Callable[[Path], T]) -> T | None:
        """Read `file`; None where it is not there."""
        path = self.path
        return processes.from_first(
            lambda: read(path / file) if path is not None and self.has(file) else None
        )

    def result(self, file: str, write: Callable[[Path], T]) -> T | None:
        """Let `write` write `file` and return what it returns; None without a folder."""
        path = self.path
        return None if path is None else processes.from_first(lambda: _written(path / file, write))

    def kept(
        self,
        file: str,
        make: Callable[[], T],
        write: Callable[[Path, T], None],
        read: Callable[[Path], T | None],
    ) -> T:
        """Return the result in `file`, or what `make` makes, and keep that; `read` gives None for another."""
        known = read(self.path / file) if self.path is not None and self.has(file) else None
        if known is not None:
            return known
        made = make()
        if self.path is not None:
            _written(self.path / file, lambda path: write(path, made))
        return made

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _written(path: Path, write: Callable[[Path], T]) -> T:
    with writing(path):
        return write(path)
