"""How a process kills itself at a chosen moment, for tests of what a kill leaves behind."""

import os
import signal
from typing import Any


def killed_at(turn: int, when: str) -> None:
    """Kill this process before or after rename number `turn`, which puts a written file in its place."""
    count = 0
    replace = os.replace

    def dying(*args: Any) -> None:
        nonlocal count
        if (count, when) == (turn, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args)
        if (count, when) == (turn, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    os.replace = dying
