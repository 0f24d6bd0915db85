"""How long the pipeline takes, and how much longer, told with its progress."""

import time
from collections.abc import Callable, Iterable, Mapping

from fastadv.studies.ilyas2019.plan import STAGES, Settings, check_stages
from fastadv.studies.ilyas2019.sets import KINDS
from fastadv.studies.study import Watch

PASS = {
    "tiny": (5e-5, "one core"),
    "cpu": (7e-4, "one core of an AMD EPYC (Zen 4) in bf16"),
    "paper": (2.4e-4, "an NVIDIA A100"),
}
"""Seconds that an image takes to pass a net forward and back, and on what.

cpu: measured in adversarial training of 15 epochs. paper: 20 minutes for 100 steps on 50,000 images, as the
repository KellerJordan/robustness-featsnotbugs says.
"""

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


def costs(settings: Settings, images: int, tested: int) -> dict[str, dict[str, float]]:
    """Return the pieces of work of each stage by their names, with how often images pass a net.

    A pass that trains, with gradients of weights too, counts one and a half.
    """
    s = settings
    epoch, attack = float(images), float(min(tested, s.tested or tested) * s.attack_steps)
    once = 1.5 * epoch * s.epochs
    inverted = float(min(images, s.inverted or images))
    work = {
        name: inverted * s.invert_steps if KINDS[name].inverts else epoch * s.push_steps for name in s.sets
    }
    return {
        "nets": {"training standard": once, "training adversarial": once + epoch * s.epochs * s.train_steps},
        "sets": {f"building {name}": work[name] for name in s.sets},
        "train": {f"training {name}": once for name in s.sets},
        "evaluate": {f"attacking {name}": attack * len(s.radii) for name in s.nets},
        "controls": {
            "training independent": once,
            "training early": 1.5 * epoch * s.early_epochs,
            "training early labels": once / 2,
        },
        "galleries": {},
        "transfer": {
            "attacking standard for transfer": attack,
            **{f"training {other.title} on {what}": once for other in s.others for what in ("D_det", "D")},
        },
    }


def estimate(settings: Settings, images: int, tested: int, stages: Iterable[str] = STAGES) -> float:
    """About how many seconds the stages take, on the machine that PASS names."""
    each, _ = PASS[settings.scale]
    all_costs = costs(settings, images, tested)
    return each * sum(sum(all_costs[stage].values()) for stage in check_stages(stages))
