"""How a process kills itself at a chosen moment, and what the others say, for tests of what a kill leaves."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastadv.errors import LostProcessError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def loss_told(folder: Path) -> Iterator[None]:
    """Write what is said of a lost process into `folder`/error.txt."""
    try:
        yield
    except LostProcessError as error:
        (folder / "error.txt").write_text(str(error))


def killed_at(turn: int, when: str) -> None:
    """Kill this process before or after rename number `turn`, which puts a written file in its place."""
    count, replace = 0, os.replace

    def dying(*args: Any) -> None:
        nonlocal count
        if (count, when) == (turn, "before"):
            die()
        replace(*args)
        if (count, when) == (turn, "after"):
            die()
        count += 1

    os.replace = dying


def kill_at_each_moment(run: Callable[[Path], object]) -> None:
    """Run the command line FOLDER TURN-WHEN ...: a copy of this process is killed at each, in its folder."""
    for moment in sys.argv[2:]:
        if os.fork() == 0:
            turn, when = moment.split("-")
            killed_at(int(turn), when)
            run(Path(sys.argv[1]) / moment)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
