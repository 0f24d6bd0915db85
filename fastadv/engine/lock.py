"""A lock that objects which are copied may hold."""

import threading


class Lock:
    """One that a thread may take again while it has it; a copy is a free one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Lock, ()
