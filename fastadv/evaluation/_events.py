"""What an evaluation tells while it runs: a bar, and an event after each attack on a batch."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastadv._checks import OnEvent
from fastadv.attacks.core.common import parameters_of, planned
from fastadv.engine.prepared import Counts
from fastadv.measure.bound import Attack
from fastadv.measure.outcome import Part
from fastadv.progress import Lines, Tick, tell
from fastadv.runs import processes
from fastadv.text import percent, several


class Events:
    """Add up what each attack has done so far, and tell it after every batch, in the first process alone."""

    def __init__(self, on_event: OnEvent | None = None, tick: Tick | None = None, total: int = 0) -> None:
        self._on_event = None if processes.rank() else on_event
        self._tick, self._total, self._steps = tick, total, 0
        # sums of each attack: samples, those right at first, those that it left right, seconds
        self._done: dict[str, Tensor] = {}

    def begun(self, name: str, attack: Attack, counts: Counts, samples: int) -> Attack:
        """Show an attack that begins with a batch; return it so that AutoAttack shows its components, too.

        `counts` tell the bar how far it is, among the passes that are planned for so many samples.
        """
        known = parameters_of(attack)
        report, queries = known.get("on_progress"), getattr(known.get("queries"), "default", None)
        if isinstance(bar := self._tick, Lines):
            whole = f": {several(samples, 'image')}" if isinstance(queries, int) else ""
            bar.named(f"{name}{whole}{_most(queries)}", self._steps, self._total)
            begun, plan = counts.forwards, samples * planned(attack, to_the_end=True)
            bar.within = lambda: samples * min(0.99, (counts.forwards - begun) / plan) if plan else 0.0
            if report is not None and report.default is None:
                named = partial(bar.named, done=self._steps, total=self._total)
                return partial(
                    attack,
                    on_progress=lambda part, left, most: named(f"{name}: {part}, {left} left{_most(most)}"),
                )
        return attack

    def judging(self) -> None:
        """Show that all attacks are done, and that the verdict's probes take the rest of the time."""
        if isinstance(bar := self._tick, Lines):
            bar.within = None
            bar.named(f"{bar.text}, then the probes of the verdict", self._steps, self._total)

    def finished(self, name: str, clean: Part, part: Part, count: int = 1) -> None:
        """Tell that an attack is done with a batch, of which `clean` is the verdict, or `count` draws."""
        correct, key = clean["correct"], "draws.right"
        rights = (correct, correct & ~part["broken"]) if count == 1 else (clean[key], part[key])
        counts = len(correct), *(float(right.sum()) / count for right in rights), float(part["seconds"])
        done = self._done.get(name, 0) + torch.tensor(counts, dtype=torch.float64, device="cpu")
        self._done[name] = done
        if isinstance(self._tick, Lines):
            self._tick.within = None
        samples, right, robust, seconds = done.tolist()
        share = math.nan if "refused" in part.notes else robust / samples
        self._steps += len(correct)
        tell(self._tick, f"{name}: robust accuracy {percent(share)}", self._steps, self._total)
        if self._on_event is not None:
            self._on_event(
                {
                    "step": int(samples),
                    "attack": name,
                    "clean_accuracy": right / samples,
                    "robust_accuracy": {} if math.isnan(share) else {name: share},
                    "seconds": {name: seconds},
                }
            )

    def went_on(self, name: str, samples: int, event: Mapping[str, Any] | None = None) -> None:
        """Tell that so many more images are corrupted or audited, or that all of a kind are: an event."""
        self._steps += samples
        if isinstance(self._tick, Lines):
            self._tick.within = None
        if samples:
            tell(self._tick, name, self._steps, self._total)
        if event is not None and self._on_event is not None:
            self._on_event(dict(event))


def _most(queries: object) -> str:
    return f", at most {queries:,} queries each" if isinstance(queries, int) and queries else ""
