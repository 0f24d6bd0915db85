"""The first and the last look at the model that every attack takes: who is already wrong, and what has been broken."""

from dataclasses import replace

import torch
from torch import Tensor

from fastadv import losses
from fastadv.attacks._problem import Problem, check_classes
from fastadv.attacks._result import AttackResult, Status
from fastadv.engine import Frozen
from fastadv.errors import InputError


class Trial:
    """A problem with the model's verdict on its clean samples.

    `problem` has x in the layout of the frozen model; `todo` int64 [n] are the samples to attack: those that the model
    gets right and whose logits are finite.
    """

    def __init__(self, frozen: Frozen, problem: Problem) -> None:
        """Passes x once. Raises InputError on labels the model does not have, or where no sample has finite logits."""
        self.frozen = frozen
        self.problem = problem
        self._before = frozen.forwards, frozen.backwards
        device = problem.x.device
        self.already = self.unusable = torch.zeros(len(problem.x), dtype=torch.bool, device=device)
        self._clean: Tensor | None = None
        if len(problem.x):
            clean = frozen.verdict(problem.x)
            check_classes(problem, clean.shape[1])
            self._clean = clean
            self.unusable = ~clean.isfinite().all(1)
            if bool(self.unusable.all()):
                raise InputError(
                    "model: expected finite logits, got NaN or infinity for every sample; check its weights and input scale"
                )
            self.already = problem.met(clean)
            frozen.check(problem.x, clean)
            # only now: the check may change what the search twin prefers
            self.problem = replace(problem, x=frozen.layout(problem.x))
        self.todo = (~(self.already | self.unusable)).nonzero().squeeze(1)

    def finish(self, x_adv: Tensor, loss: losses.Loss, bad: Tensor, zero_gradient: Tensor) -> AttackResult:
        """The result for x_adv like x, of which only the rows `todo` may differ from it.

        `bad` bool [B] marks samples that met a non-finite value. Passes x_adv once, unless nothing was attacked.
        """
        problem, frozen = self.problem, self.frozen
        if not len(x_adv):
            logits = torch.zeros(0, 2, device=x_adv.device)
        elif not len(self.todo) and self._clean is not None:
            logits = self._clean
        else:
            # NaN is outside, so nothing that is not a valid image leaves this place
            outside = ~problem.threat.contains(x_adv, problem.x)
            if bool(outside.any()):
                x_adv[outside] = problem.x[outside]
                bad = bad | outside
            logits = frozen.verdict(x_adv)
        success = (problem.met(logits) & ~self.unusable) | self.already
        broken = success & ~self.already
        status = torch.full_like(problem.y, Status.HELD)
        status[bad | self.unusable | ~logits.isfinite().all(1)] = Status.FAILED
        status[broken] = Status.BROKEN
        status[self.already] = Status.ALREADY_WRONG
        distance = problem.threat.distance(x_adv, problem.x).float()
        distance = torch.where(broken, distance, torch.where(self.already, 0.0, float("inf")))
        return AttackResult(
            x_adv=x_adv.contiguous(),
            success=success,
            status=status,
            loss=losses.loss_value(logits, problem.y, loss, problem.targets),
            distance=distance,
            forwards=frozen.forwards - self._before[0],
            backwards=frozen.backwards - self._before[1],
            zero_gradient=zero_gradient,
        )
