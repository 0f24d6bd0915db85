"""What every attack does first and last: find who is wrong already, and judge what it has broken."""

import logging

import torch
from torch import Tensor, nn

from fastadv import losses
from fastadv.attacks.core.problem import Problem, check_classes
from fastadv.attacks.core.ranking import graded, loss_of
from fastadv.attacks.core.result import NOT_FINITE, AttackResult, Status, failed_flags
from fastadv.attacks.special import mixed_rows
from fastadv.attacks.special.bounded_outputs import may_crowd
from fastadv.attacks.special.soft_logits import SOFT_LOGITS, are_soft
from fastadv.engine import Prepared
from fastadv.engine.copying.twin import dtype_of
from fastadv.engine.guard import bound
from fastadv.engine.prepared import CleanPass
from fastadv.errors import InputError
from fastadv.ops.logit_loss import KINDS
from fastadv.text import threat_text
from fastadv.threat import Threat

log = logging.getLogger("fastadv")

TWO_ANSWERS = (
    "the model gives two answers for one x: it is randomized; "
    "every sample was attacked to the last step, and a final pass of the whole batch decided"
)


class Trial:
    """A problem with the model's verdict on its clean samples.

    `problem` has x in the layout of the frozen model; `todo` int64 [n] are the samples to attack: those that
    the model gets right and whose logits are finite; `clean` are the logits [B, K] at x.
    """

    def __init__(self, classifier: Prepared, problem: Problem, from_x: bool = False) -> None:
        """Pass x once. Raises InputError on labels that the model lacks, or where no logits are finite.
        from_x: whether the first gradient will be taken at x, which then needs no pass of its own.
        """
        self.classifier = classifier
        self.problem = problem
        self.flags: tuple[str, ...] = ()
        self.clean_pass: CleanPass | None = None
        self.from_x = self.some_already = False
        self._before = classifier.forwards, classifier.backwards
        size, device, everyone = len(problem.x), problem.x.device, False
        none = torch.zeros(size, dtype=torch.bool, device=device)
        self.already = self.correct = self.attacked = self.unusable = self._not_finite = none
        if not size:
            # as many classes as any loss or criterion may ask for
            self.clean = torch.zeros(0, 1 << 20, device=device)
        else:
            classifier.begin(problem.x, problem.ids)
            self.clean_pass = classifier.clean_pass(problem.x) if from_x else None
            made = self.clean_pass
            self.from_x = made is not None
            self.clean = clean = classifier.verdict(problem.x) if made is None else made.logits
            check_classes("y", problem.y, clean.shape[1])
            if problem.targets is not None:
                check_classes("targets", problem.targets, clean.shape[1])
            problem.criterion.check(clean.shape[1], problem.targets is not None)
            self.already, finite = problem.judged(clean)
            self.attacked = ~self.already
            if finite is not None:
                self.unusable, self.attacked = ~finite, self.attacked & finite
            looks = self.unusable.all(), self.attacked.all(), self.already.any(), may_crowd(clean)
            unusable, everyone, self.some_already, crowds = torch.stack(looks).tolist()  # one read
            if unusable:
                raise InputError(NOT_FINITE)
            right = self.attacked if problem.plain else problem.right(clean)
            self.correct = right if finite is None else right & finite
            classifier.settle(problem.x)
            # only now: it may change the layout that the search copy prefers
            self.problem = problem.seen(classifier.layout(problem.x), clean, crowds)
        self.todo = torch.arange(size, device=device) if everyone else self.attacked.nonzero().squeeze(1)
        # of the last verdict: its logits and what they say, and how far its points are, None if not known
        self._last: Tensor | None = None
        self._said: tuple[Tensor, Tensor | None] | None = None
        self._loss: Tensor | None = None
        self._distance: Tensor | None = None
        self._mixes: bool | None = None

    def take_clean_pass(self) -> CleanPass | None:
        """Return the pass at x that waits for its backward pass, and let go of it."""
        held, self.clean_pass = self.clean_pass, None
        return held

    @property
    def passed(self) -> tuple[int, int]:
        """The samples passed forward and backward since the trial began."""
        return self.classifier.forwards - self._before[0], self.classifier.backwards - self._before[1]

    def verdict(self, x_adv: Tensor) -> Tensor:
        """Return logits [B, K] of the model as given at x_adv, by one pass if there was anything to attack.

        Only the rows `todo` may differ from x. Those outside the threat are first overwritten by x.
        """
        if not len(self.todo):
            return self.clean
        self._distance, inside = self.problem.threat.measure(x_adv, self.problem.x)
        if not bool(inside.all()):
            outside, self._distance = ~inside, None
            self._not_finite = self._not_finite | ~x_adv.flatten(1).isfinite().all(1)
            x_adv[outside] = self.problem.x[outside]
        self.classifier.asks_for(self.problem.ids)
        return self.classifier.verdict(x_adv)

    def judged(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return `Problem.judged` of the logits [B, K] of the last verdict, computed once."""
        if self._said is None or self._last is not logits:
            self._last, self._said, self._loss = logits, self.problem.judged(logits), None
        return self._said

    def loss(self, logits: Tensor, loss: losses.Loss) -> Tensor:
        """Return the loss [B] of the attack at the logits [B, K] of the last verdict, computed once."""
        self.judged(logits)
        if self._loss is None:
            self._loss = self._loss_of(logits, loss)
        return self._loss

    def loss_at_x(self, loss: losses.Loss) -> Tensor:
        """Return the loss [B] at the clean samples."""
        return self._loss_of(self.clean, loss)

    def _loss_of(self, logits: Tensor, loss: losses.Loss) -> Tensor:
        problem = self.problem
        return loss_of(logits, problem.y, loss, problem.targets, problem.ids)

    def hold(self, x_adv: Tensor, rank: Tensor, logits: Tensor, loss: losses.Loss) -> bool:
        """Hold the verdict [B, K] at x_adv against the losses [B] by which a search ranked these points.

        Returns whether replayed steps were those of another model; they are not replayed again.
        """
        replayed = self.classifier.replayed
        if (self.classifier.plain and replayed is None) or loss not in KINDS or not len(rank):
            return False
        problem, held = self.problem, rank.isfinite() & logits.isfinite().all(1)
        held &= (x_adv != problem.x).flatten(1).any(1)
        value = graded(self._loss_of(logits, loss), logits, problem.y, loss, problem.targets)
        apart = (value - rank).abs()
        if loss == "dlr":  # a share of the range of the largest logits
            top = logits.topk(min(3, logits.shape[1]), 1).values
            apart *= (top[:, 0] - top[:, -1]) / (1 + value.abs())
        apart = torch.where(held, apart, 0.0).max()
        wrong = self.classifier.hold(apart, torch.where(held[:, None], logits, 0.0))
        if wrong and replayed is not None:
            replayed.refuse("the model had other logits at the points of replayed steps")
        return wrong and replayed is not None

    def denied(self, broken: Tensor, logits: Tensor) -> bool:
        """Return whether the logits [B, K] deny a success in `broken` bool [B] by more than rounding."""
        if not bool(broken.any()):
            return False
        problem = self.problem
        margin = self._loss_of(logits, problem.margin)
        return bool((broken & (margin < -self._rounding())).any())

    def _rounding(self) -> float:
        """Return by how much the logits of two passes of one x may differ."""
        model = self.classifier.model
        dtype = dtype_of(model) if isinstance(model, nn.Module) else None
        clean = self.clean[~self.unusable]
        return bound(dtype) * float((clean - clean.mean(1, keepdim=True)).abs().max())

    def mixes_rows(self, x_adv: Tensor, logits: Tensor) -> bool:
        """Return whether rows depend on each other, found out once; logits [B, K] are a verdict on x_adv."""
        if self._mixes is None:
            self._mixes = mixed_rows.mixes_rows(
                self.classifier, x_adv, self.problem.ids, logits, self._rounding()
            )
            if self._mixes:
                self._report(mixed_rows.FLAG)
        return self._mixes

    def report_two_answers(self, x_adv: Tensor, logits: Tensor) -> None:
        """Flag a model that gives two answers for one x; logits [B, K] are the last verdict, on x_adv."""
        if not self.mixes_rows(x_adv, logits):
            self._report(TWO_ANSWERS)

    def _report(self, flag: str, told: bool = True) -> None:
        """Flag the result; log it once for a frozen model, unless the caller may have meant it."""
        self.flags = tuple(dict.fromkeys([*self.flags, flag]))
        if told and flag not in self.classifier.notes:
            self.classifier.add_note(flag)
            log.warning("attack: %s", flag)

    def finish(
        self, x_adv: Tensor, logits: Tensor, loss: losses.Loss, *, not_finite: Tensor, zero_gradient: Tensor,
        within: Threat | None = None, broken: Tensor | None = None, unfinished: Tensor | None = None,
    ) -> AttackResult:  # fmt: skip
        """Return the result for x_adv, given the `verdict` logits [B, K] on it, after which no row has moved.

        `not_finite` marks samples that met a NaN or infinity. An attack for the minimum names the threat
        `within` which a success counts, and who is `broken` there.
        """
        problem = self.problem
        value = self.loss(logits, loss)
        met, finite = self.judged(logits)
        broken = met & self.attacked if broken is None else broken
        failed = not_finite | self._not_finite | self.unusable
        failed = failed if finite is None else failed | ~finite
        any_failed = bool(failed.any())
        status = torch.full_like(problem.y, Status.HELD.value)
        if any_failed:
            status.masked_fill_(failed, Status.FAILED.value)
        status.masked_fill_(broken, Status.BROKEN.value)
        # of rows that depend on each other the last verdict may be another
        already = self.already & met if self._mixes else self.already
        status.masked_fill_(already, Status.ALREADY_WRONG.value)
        if within is not None:
            clean = self.loss_at_x(loss)
            value = torch.where(broken, value, clean)
        soft, unusable, failures = False, 0, 0
        if loss == "ce" and within is None and problem.targets is None:
            held = status == Status.HELD
            soft = are_soft(logits[held], problem.y[held])
        if any_failed:
            unusable = int(self.unusable.sum())
            failures = int(((status == Status.FAILED) & ~self.unusable).sum())
        if within is None and problem.threat.covers(problem.x):
            flag = _wide(problem.threat)
            self._report(flag, told=flag.endswith("?"))
        flags = (*self.flags, *failed_flags(unusable, failures, len(status)), *[SOFT_LOGITS] * soft)
        distance = self._distance
        distance = problem.threat.distance(x_adv, problem.x) if distance is None else distance
        distance = distance.float().masked_fill_(~broken, torch.inf).masked_fill_(already, 0.0)
        return AttackResult(
            x_adv=x_adv.contiguous(),
            success=broken | already,
            status=status,
            loss=value,
            distance=distance,
            forwards=self.passed[0],
            backwards=self.passed[1],
            zero_gradient=zero_gradient,
            flags=flags,
            unfinished=unfinished,
            threat=(within or problem.threat) if problem.plain else None,
            correct=self.correct,
        )


def _wide(threat: Threat) -> str:
    """Return the flag of a ball that holds every image of the box; it asks whether 8 means 8/255."""
    (low, high), radius = threat.box, threat.radius
    if isinstance(radius, Tensor):
        return f"radius: the balls of some samples cover the box [{low:g}, {high:g}], so any image is in them"
    text = f"radius: the ball {threat_text(threat)} covers the box [{low:g}, {high:g}], so any image is in it"
    if threat.norm != "linf" or (low, high) != (0, 1) or not 1 < radius <= 255:
        return text
    return f"{text}; did you mean Linf({radius:g} / 255)?"
