"""The folder of one run: locked while it is written, cleared of half-written files, and resumed."""

import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from fastadv.errors import InputError
from fastadv.runs import processes
from fastadv.runs.files import read_json, remove_parts, write_json, writing
from fastadv.runs.identity import check_same

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastadv")
T = TypeVar("T")

PATIENCE = 2.0  # seconds to wait for the lock: another process may hold it for a moment, to clean up


class _Closed:
    """What is closed at the end of a `with`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class RunFolder(_Closed):
    """A folder that a run writes: made, locked until it closes or dies, and cleared of half-written files."""

    def __init__(self, path: str | os.PathLike[str], *, name: str = "run_dir", shared: bool = False) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"{name}: expected the path of a folder, got {path!r}")
        self.path, self._shared = Path(path), shared  # shared: several processes write files of their own
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        except OSError as error:
            raise InputError(
                f"{name}: expected a folder that can be made and opened, got {self.path} ({error.strerror})"
            ) from error
        self._release = weakref.finalize(self, os.close, handle)
        self._handle = handle
        _open_folders.add(self)
        if not os.access(self.path, os.W_OK | os.X_OK):
            self._release()
            raise InputError(
                f"{name}: expected a folder that can be written, got {self.path}; choose another"
            )
        alone = self._locks("LOCK_EX", 0.0 if shared else PATIENCE)
        if alone:
            remove_parts(self.path)
        if not (self._locks("LOCK_SH", PATIENCE) if shared else alone):
            self._release()
            raise InputError(
                f"{name}: expected a folder that no other run is writing, got {self.path};"
                " wait for the other run or choose another folder"
            )

    def _locks(self, kind: str, patience: float) -> bool:
        if fcntl is None:
            return True
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self._handle, getattr(fcntl, kind) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.02)
            except OSError as error:  # some network file systems have no locks
                logger.info("%s is not locked: %s", self.path, error)
                return True
            else:
                return True

    def close(self) -> None:
        """Give up the lock; the last of several processes cleans up once more."""
        if self._release.alive:
            if self._shared and self._locks("LOCK_EX", 0.0):
                remove_parts(self.path)
            self._release()


_open_folders: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _let_go() -> None:
    """Let go of locks in a forked process, such as a data loader's worker: they are the parent's."""
    for folder in list(_open_folders):
        folder._release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Keeper(_Closed):
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

    # all processes call `begun`, `identify`, `found` and `result` together, one `kept` for a file of its own
    def begun(self, file: str, resume: bool, what: str, read: Callable[[Path], T]) -> T | None:
        """Return what a run left in `file`, None in a new folder; InputError for one without `resume`."""

        def left(path: Path) -> T:
            if not resume:
                raise InputError(
                    f"{self._name}: expected a new folder, got {path.parent} with {what}; "
                    "pass resume=True or choose another"
                )
            return read(path)

        return self.found(file, left)

    def identify(self, file: str, config: Mapping[str, Any]) -> Any:
        """Make this the folder of the run `config`, as JSON in `file`, and return that."""

        def same(path: Path) -> Any:
            if path.exists():
                check_same(path, read_json(path), config)
            else:
                write_json(path, config)
            return read_json(path)

        return self.result(file, same)

    def has(self, file: str) -> bool:
        return self.path is not None and (self.path / file).exists()

    def found(self, file: str, read: Callable[[Path], T]) -> T | None:
        """Read `file`; None where it is not there."""
        return self._in_first(file, lambda path: read(path) if path.exists() else None)

    def result(self, file: str, write: Callable[[Path], T]) -> T | None:
        """Let `write` write `file` and return what it returns; None without a folder."""
        return self._in_first(file, lambda path: _written(path, write))

    def _in_first(self, file: str, work: Callable[[Path], T | None]) -> T | None:
        folder = self.path
        return None if folder is None else processes.from_first(lambda: work(folder / file))

    def kept(
        self, file: str, make: Callable[[], T], write: Callable[[Path, T], None],
        read: Callable[[Path], T | None],
    ) -> T:  # fmt: skip
        """Return the result in `file`, or what `make` makes, and keep that; `read` gives None for another."""
        if self.path is None:
            return make()
        path = self.path / file
        result = read(path) if path.exists() else None
        if result is None:
            result = make()
            _written(path, lambda path: write(path, result))
        return result

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()


def _written(path: Path, write: Callable[[Path], T]) -> T:
    with writing(path):
        return write(path)
