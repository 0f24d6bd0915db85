"""The folder of one run: locked while it is written, and cleared of half-written files."""

import logging
import os
import time
import weakref
from pathlib import Path
from typing import Self

from fastadv.errors import InputError
from fastadv.files import remove_parts

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("fastadv")

PATIENCE = 2.0  # seconds to wait for the lock: another process may hold it for a moment, to clean up


class RunFolder:
    """A folder that a run writes: made, locked until it closes or dies, and cleared of half-written files."""

    def __init__(self, path: str | os.PathLike[str], *, name: str = "run_dir") -> None:
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"{name}: expected the path of a folder, got {path!r}")
        self.path = Path(path)
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
        if not self._locks():
            self._release()
            raise InputError(
                f"{name}: expected a folder that no other run is writing, got {self.path};"
                " wait for the other run or choose another folder"
            )
        remove_parts(self.path)

    def _locks(self) -> bool:
        if fcntl is None:
            return True
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.02)
            except OSError as error:  # some network file systems have no locks
                logger.info("%s is not locked: %s", self.path, error)
                return True
            else:
                return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock."""
        self._release()


_open_folders: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _let_go() -> None:
    """Let go of locks in a forked process, such as a data loader's worker: they are the parent's."""
    for folder in list(_open_folders):
        folder._release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
