"""How much longer a study takes, told with its progress."""

import time
from collections.abc import Callable, Mapping

from fastadv.studies.study import Watch

MOMENT = 5.0  # seconds of work before the speed counts


class Clock:
    """A `Watch` that adds to what is being done about how long it and the rest will take.

    The speed is that of this run so far; what a stopped run had finished takes no time.

    watch: told of the progress.
    costs: of each piece of work by its name, in the order in which they are done, in any one unit.
    """

    def __init__(
        self, watch: Watch, costs: Mapping[str, float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._watch, self._now = watch, now
        self._order, self._left = list(costs), dict(costs)
        self._costs = dict(costs)
        self._piece, self._since = "", 0.0
        self._gained, self._seconds = 0.0, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now, before = self._now(), self._left.get(what, 0.0)
        if what in self._left:
            for earlier in self._order[: self._order.index(what)]:
                self._left[earlier] = 0.0
            self._left[what] = self._costs[what] * (1 - done / total)
        if what == self._piece:  # its first report may count what was there before
            self._gained += before - self._left.get(what, 0.0)
            self._seconds += now - self._since
        self._piece, self._since = what, now
        left = self.left()
        self._watch(what if left is None else f"{what}, {in_words(left)} to go", done, total)

    def left(self) -> float | None:
        """Seconds until all is done; None as long as nothing is known of the speed."""
        if self._gained <= 0 or self._seconds < MOMENT:
            return None
        return sum(self._left.values()) * self._seconds / self._gained


def in_words(seconds: float) -> str:
    """About how long, in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
