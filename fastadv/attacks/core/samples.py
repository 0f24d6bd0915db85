"""The samples still under attack: what is known of them, and how they leave."""

from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from fastadv import rng
from fastadv._waiting import may_leave, waits
from fastadv.attacks.core import points as shapes
from fastadv.attacks.core.judge import Judge, judge_for
from fastadv.attacks.core.record import Over, Plan, Record, Rows
from fastadv.attacks.core.task import Task
from fastadv.engine.bound import CleanPass
from fastadv.losses import Loss
from fastadv.threat.checks import StepSize

R_co = TypeVar("R_co", bound=Rows, default=Any, covariant=True)
V = TypeVar("V", Tensor, StepSize)
NOTHING = None, None  # was asked


class Samples(Generic[R_co]):
    """The samples that a search still attacks, with the best point of each.

    `problem` is the task of these samples, which defines a success. Of it are the clean `x` [n, ...], labels
    `y`, `targets` or None, the numbers `ids` int64 [n], and `threat`, with the radii of these samples. `best`
    holds the best point so far of each sample, `rows` what the rule remembers. `restart` is the number of
    this run, `seed` the caller's: pass it through `rng.derive` with the attack's name and `restart`.
    """

    rows: R_co

    def __init__(self, task: Task, index: Tensor, record: Record, plan: Plan, restart: int) -> None:
        whole = index.shape == task.x.shape[:1]
        self.classifier, self.plan, self.restart, self.seed = task.classifier, plan, restart, plan.seed
        self._attack(task if whole else task.take(index))
        # int64 [n], the classes to which losses lead, unless a rule sets others; None leads away from y
        self.aims = self.problem.targets
        # if all are attacked, the best is the record itself until some leave
        self.best = record if whole else record.take(index)
        self.rows = plan.rows()  # type: ignore[assignment]
        # bool [n], those that are to leave
        self.leaving: Tensor | None = None
        # rows of the record, and of the caller's batch
        self._record, self._index, self._places = record, index, index
        self.evaluations = 0
        self.forget()
        self.stays = False  # whether samples never leave, as in a graph
        self._competed = False  # a point for the best
        # chosen for the samples that are here: what judges them, and what gives the gradient of a loss
        self._judge: Judge | None = None
        self._asked: tuple[tuple[Loss, bool, int] | None, Any] = NOTHING
        self.met = False  # whether the search has had a gradient
        self.clean_pass: CleanPass | None = None  # at x, which waits for its backward pass

    @property
    def steps(self) -> int:
        """How many steps this run has, of those that `core.run` was given."""
        return self.plan.steps

    @property
    def judge_now(self) -> Judge:
        """What judges points of the samples that are here."""
        if self._judge is None:
            self._judge = judge_for(self.problem, self.best, self.plan)
        return self._judge

    def _attack(self, task: Task) -> None:
        """Take the samples of a task, of which all else follows."""
        self.problem, self.threat = task, task.threat
        self.x, self.y, self.targets, self.ids = task.x, task.y, task.targets, task.ids

    def forget(self) -> None:
        """Begin anew: no answer is known, and gradient rules remember nothing and draw the same numbers."""
        # the memory of gradient rules: tensors [n, ...]
        self.memory: dict[str, Tensor] = {}
        # the last answer with gradients, for points without finite logits: tensors [n, ...]
        self.answer: list[Tensor] = []
        self._draws = 0

    def uniform(self, count: int) -> Tensor:
        """Draw [n, count] random numbers in [0, 1) for a gradient rule; the next call draws others."""
        self._draws += 1
        seed = rng.derive(self.seed, "gradient rule", self.restart)
        return rng.uniform(count, seed, self.ids, self._draws).to(self.x.dtype)

    def full(self, value: float) -> Tensor:
        """Return [n], this value in the dtype of distances and losses."""
        return torch.full_like(self.best.rank, value)

    def per_sample(self, value: V) -> V:
        """Return the rows of these samples of an argument [B] of the caller; a number stays as it is."""
        return value[self._places] if isinstance(value, Tensor) and value.ndim else value

    def distance(self, points: Tensor) -> Tensor:
        """Return [n] or [n, C], the distance of points from x in the norm of the threat."""
        return shapes.distance(points, self.x, self.threat.order)

    def leave(self, done: Tensor) -> None:
        """Drop the samples `done` bool [n] at the next evaluation."""
        self.leaving = done if self.leaving is None else self.leaving | done

    def drop_leaving(self, points: Tensor) -> Tensor:
        """Drop the samples that are to leave; return the points of the others, with x outside the mask."""
        leaving = self.leaving
        if leaving is not None and may_leave(self.evaluations, points.device):
            self.leaving = None
            if bool(leaving.any()):
                if self.plan.stop_early:
                    self._prove()
                points = shapes.taken(points, self._drop(leaving))
        return self.problem.masked(points)

    def shrinks(self, broken: Tensor) -> bool:
        """Return whether the samples `broken` bool [n] leave now: on a GPU now and then, if they are half."""
        if not self.plan.stop_early or not may_leave(self.evaluations - 1, broken.device):
            return False
        return 2 * int(broken.sum()) >= len(self.y) if waits(broken.device) else bool(broken.any())

    def drop_broken(self) -> None:
        """Drop the samples that are broken, in an attack with `stop_early`; `Over` is raised if all are."""
        if self.plan.stop_early:
            broken = self._prove()
            if bool(broken.any()):
                self._drop(broken)

    def close(self) -> None:
        """Prove the successes of the samples that are still here, and write all of them to the record."""
        self._asked = NOTHING  # what asks holds the search
        if self.plan.stop_early:
            self._prove()
        if self.best is not self._record:
            self._record.put(self._index, self.best)

    def _drop(self, left: Tensor) -> Tensor:
        """Write the samples `left` bool [n] to the record; return int [m], who stays. Raises Over at none."""
        gone, kept = (which.nonzero().squeeze(1) for which in (left, ~left))
        self._record.put(self._index[gone], self.best.take(gone))
        self._index, self._places = self._index[kept], self._places[kept]
        self._judge, self._asked = None, NOTHING
        if not len(self._index):
            raise Over
        of_rule = self.aims is not self.targets
        self._attack(self.problem.take(kept))
        self.best = self.best.take(kept)
        self.aims = shapes.taken(self.aims, kept) if of_rule else self.targets
        self.leaving = shapes.taken(self.leaving, kept)
        self.rows.take(kept)
        self.answer = [value[kept] for value in self.answer]
        self.memory = {name: value[kept] for name, value in self.memory.items()}
        return kept

    def _prove(self) -> Tensor:
        """Return bool [n]: the successes that the model as given confirms. The others become `refuted`."""
        best = self.best
        if self.classifier.exact or not bool(best.success.any()):
            return best.success
        index = best.success.nonzero().squeeze(1)
        logits = self.classifier.verdict(best.x_adv[index], self.problem.rows[index])
        confirmed = self.problem.take(index).met(logits)
        best.success[index] = confirmed
        best.refuted[index] |= ~confirmed
        return best.success
