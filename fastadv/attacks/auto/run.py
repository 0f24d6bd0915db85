"""A run of AutoAttack: its components, what is left of a batch, what was found in it, and the result."""

import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks import core
from fastadv.attacks.apgd import apgd
from fastadv.attacks.core.flags import DENIED, denied_flags, denied_in
from fastadv.attacks.core.points import like
from fastadv.attacks.core.result import FAILED
from fastadv.attacks.core.trial import Trial
from fastadv.attacks.fab import fab
from fastadv.attacks.masking import Indicators
from fastadv.attacks.masking.flags import FLAGS, Cost, blind, square_stands_out
from fastadv.attacks.masking.probes import SAMPLES, Answer, randomized
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.square import square
from fastadv.engine.module import as_module
from fastadv.errors import NoGradientError
from fastadv.labels import LABELS
from fastadv.outputs import SOFT_LOGITS
from fastadv.progress import say
from fastadv.runs import processes
from fastadv.text import Cells, percent, several

log = logging.getLogger("fastadv")

OnProgress = Callable[[str, int, int], None]
ATTACKS: dict[str, Any] = {"apgd": apgd, "fab": fab, "pdpgd": pdpgd, "square": square}


@dataclass(frozen=True)
class Component:
    """One attack of a version: its name in reports, that of its function, and its arguments."""

    name: str
    attack: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def bound(self, task: core.Task, seed: int) -> Callable[[], core.AttackResult]:
        """Return the attack with its arguments for a task."""
        attack, arguments = ATTACKS[self.attack], dict(self.arguments)
        if "seed" in inspect.signature(attack).parameters:
            arguments["seed"] = rng.derive(seed, f"autoattack {self.name}")
        if self.attack == "fab":
            arguments["restart_radius"] = task.threat.radius
        return partial(attack.on, task, **arguments)


@dataclass(eq=False, repr=False)
class AutoAttackResult(core.AttackResult):
    """The outcome of AutoAttack: an `AttackResult` that also says what each component did.

    `flags` begin with signs of masked gradients that the components met. `forwards` also counts the final
    checks.

    Attributes:
        version: the version, or the components of a list.
        by: for each sample, the first component that broke it; "" where none did, or x was already wrong.
        costs: by name, what each component that had samples left did: `samples`, of which so many `broken`,
            `forwards`, `backwards` and `seconds`.
        notes: what the version did and left out, in words.
        indicators: signs of masked gradients, in these results and at 8 samples; None where they were not
            asked for. `forwards` and `backwards` hold their passes, too.
        others: as in `AttackResult`.
    """

    version: str = ""
    by: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    indicators: Indicators | None = None

    @property
    def verdict(self) -> str:
        """The conclusion of the indicators; "" where they were not asked for."""
        return "" if self.indicators is None else self.indicators.verdict

    @property
    def lead(self) -> str:
        return (self.indicators.lead if self.indicators else "") or super().lead

    def contents(self) -> list[str | Cells]:
        signs = self.indicators.flagged if self.indicators else ()
        others = [flag for flag in self.flags if flag.partition(":")[0] not in signs]
        return ["; ".join(self.sentences()), *others, *[self.verdict] * bool(signs)]

    def sentences(self, name: str = "") -> list[str]:
        """Return the parts of one line: accuracies, what each component broke, a verdict of one line."""
        number = Counter(self.by)
        parts = [f"{name} {number[name]}" for name in self.costs if number[name]]
        verdict = "" if "\n" in self.verdict else self.verdict[:1].lower() + self.verdict[1:]
        first = super().sentences(name or f"AutoAttack {self.version}")
        return [*first, *filter(None, [", ".join(parts), verdict])]


class Run:
    """What is left of a batch, and what was found in it."""

    def __init__(
        self, trial: Trial, seed: int, on_progress: OnProgress | None = None, progress: bool = False
    ) -> None:
        self.trial, self.seed, self.on_progress, self.progress = trial, seed, on_progress, progress
        problem = trial.problem
        self.left, self._todo = trial.todo, trial.todo.tolist()
        self.x_adv = problem.x.clone()
        self.by = [""] * len(problem.x)
        self.not_finite = torch.zeros_like(trial.already)
        # no component met a gradient but zero; this means nothing until one computed any
        self.flat, self.gradients = ~(trial.already | trial.unusable), False
        self.unfinished = torch.full(self.flat.shape, torch.nan, device=self.flat.device)
        self.costs: dict[str, Cost] = {}
        self.notes: tuple[str, ...] = ()
        self.warnings: dict[str, None] = {}
        self.flags: dict[str, None] = {}
        self.denied = 0  # successes of components
        # the criterion is the plain one
        self.plain = problem.margin == "margin"
        self._say("clean: accuracy")

    def _say(self, name: str) -> None:
        left, size = len(self.left), len(self.by)
        self._tell(f"{name} {percent(left / max(1, size))} ({left} of {size} left)")

    def _tell(self, line: str) -> None:
        if self.progress and not processes.rank():
            say(line)
        else:
            log.info("autoattack: %s", line)

    def note(self, note: str) -> None:
        self.notes += (note,)

    def look(self) -> None:
        """Look whether a few samples have other answers in another pass."""
        few = self.trial.problem.take(self.left[:SAMPLES])
        with rng.generators_kept(few.x.device):
            if len(few.x) and randomized(few, *(Answer.of(few) for _ in range(2))):
                self.warnings["randomized"] = None

    def component(self, component: Component, index: Tensor | None = None) -> None:
        """Run one attack on what is left, or on the samples `index` int64 [n] of that."""
        index = self.left if index is None else index
        if not len(index):
            return
        problem = self.trial.problem.take(index)
        queries = component.arguments.get("queries", 0)
        if self.on_progress is not None:
            self.on_progress(component.name, len(index), queries)
        if queries:  # which may take longer than all before
            text = f"{several(len(index), 'sample')} left, each up to {queries:,} queries"
            self._tell(f"{component.name}: {text}: {queries * len(index):,} passes")
        started = time.perf_counter()
        try:
            out = component.bound(problem, self.seed)()
        except NoGradientError:
            self.note(f"{component.name}: not run, because the model has no gradient")
            if as_module(problem.classifier.source) is not None:
                self.warnings["zero_gradient"] = None
            return
        broken = self._take(component.name, out, index)
        seconds = time.perf_counter() - started
        self.costs[component.name] = Cost(len(index), broken, out.forwards, out.backwards, seconds)
        self._say(f"{component.name}: robust accuracy")
        late = blind(self.costs)
        # of parameters a search without gradients may see more
        if not problem.through and square_stands_out(sum(by in late for by in self.by), len(self.by)):
            self.warnings["square"] = None

    def _take(self, name: str, out: core.AttackResult, index: Tensor) -> int:
        """Keep what a component found, the first one for samples that hold, too; return how many it broke."""
        places, broken, flat = torch.stack([index, out.success.long(), out.zero_gradient.long()]).tolist()
        for place in compress(places, broken):
            self.by[place] = name
        kept = like(out.success, out.x_adv) if self.costs else torch.ones_like(out.x_adv, dtype=torch.bool)
        self.x_adv[index] = torch.where(kept, out.x_adv, self.x_adv[index])
        self.not_finite[index] |= out.status == core.Status.FAILED
        if out.backwards:
            self.flat[index] &= out.zero_gradient
            self.gradients = True
            if out.unfinished is not None:
                self.unfinished[index] = torch.fmin(self.unfinished[index], out.unfinished.float())
            if any(flat):
                self.warnings["zero_gradient"] = None
        # another component ascends another loss, and what failed is counted at the end
        self.denied += denied_in(out.flags)
        of_all = FAILED, LABELS, DENIED
        self.flags |= dict.fromkeys(f for f in out.flags if f != SOFT_LOGITS and not f.startswith(of_all))
        left = [place for place in self._todo if not self.by[place]]
        self.left = torch.tensor(left, dtype=torch.int64, device=index.device)
        return sum(broken)

    def unseen(self) -> Tensor:
        """Return int64 [n]: of what is left, the samples at which no component met a gradient of use."""
        return self.left[(self.flat | self.not_finite)[self.left]]

    def finish(self) -> AutoAttackResult:
        """Return the result, by one more verdict on the whole batch."""
        trial, problem = self.trial, self.trial.problem
        claimed = torch.tensor([*map(bool, self.by)], dtype=torch.bool, device=self.flat.device)
        verdict = trial.verdict(self.x_adv)
        if not trial.draws:
            verdict = trial.overshoot(self.x_adv, claimed, verdict)
        out = trial.finish(
            self.x_adv,
            verdict,
            problem.margin,
            claimed=claimed,
            not_finite=self.not_finite,
            zero_gradient=self.flat & self.gradients,
            unfinished=self.unfinished,
        )
        words = [f"{name}: {FLAGS[name]}" for name in FLAGS if name in self.warnings]
        values = {value.name: getattr(out, value.name) for value in fields(core.AttackResult)}
        flags = [flag for flag in out.flags if not flag.startswith(DENIED)]
        flags += denied_flags(self.denied + denied_in(out.flags))
        values["flags"] = tuple(dict.fromkeys([*words, *self.flags, *flags]))
        by = tuple(
            name if broken else ""
            for name, broken in zip(self.by, (out.status == core.Status.BROKEN).tolist(), strict=True)
        )
        return AutoAttackResult(**values, by=by, costs=self.costs, notes=self.notes)
