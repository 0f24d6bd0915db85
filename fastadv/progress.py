"""Progress on stderr, for calls with progress=True: a bar by rich, else lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import Any

from fastadv.errors import InputError
from fastadv.runs import processes

__all__ = ["Progress", "Tick"]

EVERY = 10.0  # seconds from one line to the next
Tick = Callable[[int, int], None]
"""Called with (done, total)."""
Progress = bool | Tick | None
"""True shows a bar; a function is called with (done, total)."""


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class Lines:
    """A line every ten seconds, and a last one."""

    # how many of what is done now are done, to be asked at any time
    within: Callable[[], float] | None = None

    def __init__(self, text: str) -> None:
        self.text, self.since = text, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.since >= EVERY:
            self.since = time.monotonic()
            say(f"{self.text}: {done:,} of {total:,}")

    def named(self, text: str, done: int, total: int) -> None:
        self.text = text
        self(done, total)

    def close(self) -> None: ...


class RichBar(Lines):
    """A bar by rich; it appears after `patience` seconds, and a `transient` one goes at the end."""

    patience, transient = 0.0, False

    def __init__(self, text: str) -> None:
        from rich import progress as rich
        from rich.console import Console

        super().__init__(text)
        self.done = 0
        columns = [rich.TextColumn("{task.description}", markup=False), rich.BarColumn(bar_width=20)]
        columns += [rich.TaskProgressColumn(), rich.TimeElapsedColumn(), rich.TextColumn("elapsed,")]
        columns += [rich.TimeRemainingColumn(compact=True), rich.TextColumn("left")]

        class Asking(rich.Progress):
            """Asks how far the work is, each time that the bar is drawn."""

            def get_renderables(asking) -> Any:
                if self.within is not None:
                    asking.update(self.task, completed=self.done + self.within())
                return super().get_renderables()

        self.bar = Asking(*columns, console=Console(stderr=True), transient=self.transient)
        self.task = self.bar.add_task(text, total=None)

    def __call__(self, done: int, total: int) -> None:
        self.done = done
        self.bar.update(self.task, description=self.text, completed=done, total=total)
        if not self.bar.live.is_started and time.monotonic() - self.since >= self.patience:
            self.bar.start()

    def close(self) -> None:
        if self.bar.live.is_started:  # stopping a bar that was never drawn prints an empty line
            self.bar.stop()


def check_progress(progress: Any) -> None:
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise InputError(f"progress: expected True, False or a function of (done, total), got {progress!r}")


@contextmanager
def shown(progress: Progress, text: str) -> Iterator[Tick | None]:
    """Give what is called with (done, total): the function, or a bar in the first process alone."""
    if progress is not True or processes.rank():
        yield progress if callable(progress) else None
        return
    notebook, terminal = "ipykernel" in sys.modules, sys.stderr.isatty()
    draws = find_spec("rich") and (find_spec("ipywidgets") if notebook else terminal)
    with closing(RichBar(text) if draws else Lines(text)) as bar:
        yield bar


def tell(tick: Tick | None, text: str, done: int, total: int) -> None:
    """Call `tick`, and tell a bar what is being done."""
    if isinstance(tick, Lines):
        tick.named(text, done, total)
    elif tick is not None:
        tick(done, total)
