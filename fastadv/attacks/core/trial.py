"""What every attack does first and last: find who is wrong already, and judge what it has broken."""

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks.core.criterion import WRONG, Goal
from fastadv.attacks.core.flags import Evidence, bytes_meant
from fastadv.attacks.core.judge import graded, loss_of
from fastadv.attacks.core.points import like
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.result import NOT_FINITE, AttackResult, Status
from fastadv.attacks.core.task import Task
from fastadv.engine.bound import CleanPass
from fastadv.engine.capture import Captures
from fastadv.engine.guard import bound, near
from fastadv.errors import InputError
from fastadv.labels import warn_of_probabilities
from fastadv.ops.logit_loss import KINDS, unit_of
from fastadv.threat import Threat

log = logging.getLogger("fastadv")

# factors that lengthen the displacement of a point, in turn, where the model denies that it is a success
OVERSHOOTS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
EPS = 8 * torch.finfo(torch.float32).eps
CLASSES = 1 << 20  # that a model may have of whom an empty batch tells none
TWO_ANSWERS = (
    "the model gives two answers for one x: it is randomized; a final pass of the whole batch decided"
)
STALE = "replayed: the model had other logits at the points of replayed steps; attack it again"


@dataclass(eq=False)
class Verdict:
    """What the model as given says of points [B, ...], and which of them meet the criterion."""

    logits: Tensor
    met: Tensor
    finite: Tensor  # of the logits
    distance: Tensor | None = None

    def where(self, rows: Tensor, other: "Verdict") -> "Verdict":
        """Return this verdict of the rows bool [B], and another one of the others, but for distances."""
        logits = torch.where(rows[:, None], self.logits, other.logits)
        met, finite = torch.where(rows, self.met, other.met), torch.where(rows, self.finite, other.finite)
        return Verdict(logits, met, finite, self.distance)


class Trial:
    """A task with the model's verdict on its clean samples."""

    def __init__(self, task: Task, from_x: bool = False) -> None:
        """Pass x, unless its logits are known; with `from_x` the pass waits for the first gradient, at x."""
        classifier, x = task.classifier, task.x
        self.classifier = classifier
        self.flags: tuple[str, ...] = ()
        self._before = classifier.forwards, classifier.backwards
        if task.outputs == "any" and not len(x):  # no sample meets anything
            task = replace(task, y=task.ids, targets=None, criterion=WRONG)
        self.clean_pass: CleanPass | None = None
        self.clean = clean = self._clean(task, from_x)
        known, task = task.clean is not None, task.checked(clean, classifier.output_shape)
        self.already, finite = task.judged(clean)
        if classifier.patient and not known:  # another draw may be right
            self.already = torch.zeros_like(self.already)
        self.at_x = Verdict(clean, self.already, finite)
        self.unusable = self._not_finite = ~finite
        self.attacked = ~self.already & finite
        self.outside = torch.zeros_like(finite)  # of whose points x stood trial
        looks = self.unusable.all(), self.attacked.all(), self.already.any()
        unusable, everyone, self.some_already = torch.stack(looks).tolist()  # one read
        if unusable and len(x):
            raise InputError(NOT_FINITE)
        warn_of_probabilities(clean, classifier.outputs, task.criterion.outputs == "classes")
        # the model gets them right, by finite logits
        self.correct = self.attacked if task.plain else task.criterion.right(clean, task.y) & finite
        self.draws = False  # whether the model answers x otherwise in another pass
        for _ in range((classifier.eot - 1) * bool(len(x))):
            self._draw(task)
            if not self.some_already:
                break
        # only now: a search copy may be made here
        self.problem = task.seen(classifier.layout(x), clean)
        self.todo = torch.arange(len(x), device=x.device) if everyone else self.attacked.nonzero().squeeze(1)

    def _clean(self, task: Task, from_x: bool) -> Tensor:
        """Return the logits at x: those that are known, or of a pass."""
        classifier, x = task.classifier, task.x
        if task.clean is not None:
            return task.clean
        if not len(x):
            return x.new_zeros(0, CLASSES, dtype=torch.float32)
        self.clean_pass = classifier.clean_pass(x, task.rows) if from_x else None
        return self.clean_pass.logits if self.clean_pass else classifier.verdict(x, task.rows)

    def _draw(self, task: Task) -> None:
        """Attack also what one more pass of x answers otherwise, of a model that draws."""
        again = (self.classifier.verdict(task.x, task.rows) - self.clean).abs().amax(1)
        varies = ~(again <= self._rounding()) & ~self.unusable
        if not self.draws and bool(varies.any()):
            self.draws = True
            self.flags += (TWO_ANSWERS,)
        self.already, self.attacked = self.already & ~varies, self.attacked | varies
        self.some_already = bool(self.already.any())

    def verdict(self, x_adv: Tensor) -> Verdict:
        """Return what the model as given says of x_adv; samples outside the threat are first put to x."""
        if not self.todo.shape[0]:
            return self.at_x
        distance: Tensor | None
        task = self.problem
        distance, inside = task.threat.measure(x_adv, task.x)
        if not bool(inside.all()):
            outside, distance = ~(inside | task.threat.holds(x_adv, task.x)), None
            finite = x_adv.flatten(1).isfinite().all(1)
            self._not_finite, self.outside = self._not_finite | ~finite, self.outside | outside & finite
            x_adv[outside] = task.x[outside]
            x_adv.clamp_(*task.threat.box)  # what rounding took out
        logits = self.classifier.verdict(x_adv, task.rows)
        return Verdict(logits, *task.judged(logits), distance)

    def nearest(self, record: Record, within: Threat) -> Verdict:
        """Return the verdict on the nearest successes; what is outside `within`, or denied, is x again."""
        x = self.problem.x
        # what is too far goes back before the verdict, as rows may depend on each other
        far = self.problem.threat.contains(record.x_adv, x) & ~within.contains(record.x_adv, x)
        record.success, record.x_adv = record.success & ~far, torch.where(like(far, x), x, record.x_adv)
        verdict = self.overshoot(record.x_adv, record.success, self.verdict(record.x_adv))
        moved, inside = (record.x_adv != x).flatten(1).any(1), within.contains(record.x_adv, x)
        kept = verdict.met & inside | ~self.attacked
        if bool((moved & ~kept).any()):
            record.x_adv = torch.where(like(kept, x), record.x_adv, x)
            again = self.verdict(record.x_adv)
            # where rows decide others, the last verdict is on what is returned, unless the model draws
            if torch.equal(again.logits, self.verdict(record.x_adv).logits):
                verdict, kept = again, kept & moved & again.met | ~self.attacked
        return verdict.where(kept, self.at_x)

    def overshoot(self, x_adv: Tensor, claimed: Tensor, verdict: Verdict) -> Verdict:
        """Lengthen the displacement of successes on the boundary until rounding does not deny them."""
        # a fresh verdict counts after each change: no randomized model is asked until it agrees
        threat, x = self.problem.threat, self.problem.x
        for share in OVERSHOOTS:
            denied = claimed & ~verdict.met
            if not bool(denied.any()):
                break
            further = (x_adv + share * (x_adv - x)).clamp(*threat.box)
            moved = denied & threat.contains(further, x) & (further != x_adv).flatten(1).any(1)
            if bool(moved.any()):
                x_adv[moved] = further[moved]
                verdict = self.verdict(x_adv)
        return verdict

    def check_search(
        self, record: Record, verdict: Verdict, loss: losses.Loss, replayed: Captures | None
    ) -> None:
        """Flag steps that were `replayed` on another model, by the losses that ranked x_adv."""
        x_adv, rank, logits = record.x_adv, record.rank, verdict.logits
        plain = self.classifier.as_given is self.classifier
        if (plain and replayed is None) or loss not in KINDS or not len(rank):
            return
        task, held = self.problem, rank.isfinite() & logits.isfinite().all(1)
        held &= (x_adv != task.x).flatten(1).any(1)
        value = graded(loss_of(logits, task.y, loss, task.targets), logits, task.y, loss, task.targets)
        apart = (value - rank).abs() - EPS * value.abs()  # where all logits are nearly 0, a loss still rounds
        if loss == "ce_sharp" and logits.shape[1] > 2:  # of logits that are scaled up
            apart *= unit_of(logits, task.y if task.targets is None else task.targets)[:, 0]
        if loss == "dlr":  # a share of the range of the largest logits
            top = logits.topk(min(3, logits.shape[1]), 1).values
            apart *= (top[:, 0] - top[:, -1]) / (1 + value.abs())
        apart = torch.where(held, apart, 0.0).max()
        wrong = self.classifier.differs(apart, torch.where(held[:, None], logits, 0.0))
        if wrong and replayed is not None:
            replayed.refuse(STALE)
            self.flags += (STALE,)

    def _rounding(self) -> float:
        """Return by how much the logits of two passes of one x may differ."""
        clean = self.clean[~self.unusable]
        clean = clean[:, near(clean)]
        return bound(self.classifier.dtype) * float((clean - clean.mean(1, keepdim=True)).abs().max())

    def _ask(self, flags: tuple[str, ...]) -> None:
        """Log flags that ask the caller, once for a frozen model."""
        for flag in flags:
            if flag not in self.classifier.notes:
                self.classifier.add_note(flag)
                log.warning("attack: %s", flag)

    def finish(
        self, x_adv: Tensor, verdict: Verdict, loss: losses.Loss, *, claimed: Tensor, not_finite: Tensor,
        zero_gradient: Tensor, unfinished: Tensor, cycled: Tensor | None = None,
        within: Threat | None = None,
    ) -> AttackResult:  # fmt: skip
        """Return the result for x_adv by the verdict on it; of a search for the nearest, `within` a threat.

        What the search `claimed` to be a success, and the verdict denies, holds.
        """
        task, logits, met = self.problem, verdict.logits, verdict.met
        value = loss_of(logits, task.y, loss, task.targets) if len(task.y) else logits.new_zeros(0)
        failed = not_finite | self._not_finite | ~verdict.finite
        broken, already = met & self.attacked, met & self.already
        status = torch.full_like(task.ids, Status.HELD.value).masked_fill_(failed, Status.FAILED.value)
        status.masked_fill_(broken, Status.BROKEN.value).masked_fill_(already, Status.ALREADY_WRONG.value)
        backwards = self.classifier.backwards - self._before[1]
        evidence = Evidence.of(self, claimed, logits, loss, within is None, backwards)
        if bytes_meant(task.threat):
            self._ask(evidence.wide(x_adv))
        distance = verdict.distance
        distance = task.threat.distance(x_adv, task.x) if distance is None else distance
        out = AttackResult(
            x_adv=x_adv.contiguous(),
            success=broken | already,
            status=status,
            loss=value,
            distance=distance.float().masked_fill_(~broken, torch.inf).masked_fill_(already, 0.0),
            forwards=self.classifier.forwards - self._before[0],
            backwards=backwards,
            zero_gradient=zero_gradient,
            flags=evidence.flags,  # type: ignore[arg-type]  # made when they are read
            unfinished=unfinished,
            cycled=cycled,
            threat=within or task.threat,
            correct=self.correct,
            goal=Goal(task.criterion, task.targets, task.mask),
        )
        if task.criterion.outputs == "any":
            # such outputs may be larger than x: they are not kept until the flags are read
            out.flags = out.flags
        return out
