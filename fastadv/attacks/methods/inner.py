"""Attacks that run another attack."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.search import Search
from fastadv.attacks.methods.claims import checked, is_own
from fastadv.engine import Prepared
from fastadv.errors import InputError
from fastadv.threat import Threat

InnerAttack = Callable[..., AttackResult]


def check_attack(attack: Any) -> None:
    if not callable(attack):
        raise InputError(f"attack: expected an attack, as partial(fa.attacks.bim, steps=10), got {attack!r}")


def call_attack(attack: InnerAttack, model: Prepared, problem: Problem, **arguments: Any) -> AttackResult:
    """Return the attack on the samples of a problem, with all that defines a success."""
    options: dict[str, Any] = {"targets": problem.targets, "ids": problem.ids}
    if problem.criterion is not WRONG:
        options["criterion"] = problem.criterion
    if problem.mask is not None:
        options["mask"] = problem.mask
    return attack(model, problem.x, problem.y, threat=problem.threat, **options, **arguments)


def run_inner(
    attack: InnerAttack, search: Search, model: Prepared, threat: Threat, targets: Tensor | None = None,
    claims: Counter[str] | None = None,
) -> AttackResult:  # fmt: skip
    """Run another attack on the samples of a search; `claims` counts what one of the caller's own claims."""
    targets = search.targets if targets is None else targets
    task = replace(search.problem, x=search.problem.x.to(search.dtype), threat=threat, targets=targets)
    if not is_own(attack):
        return call_attack(attack, model, task)
    out = call_attack(attack, model, replace(task, x=task.x.clone(), y=task.y.clone()))
    every = torch.ones_like(task.ids, dtype=torch.bool)
    return checked("attack", out, model, task, every, Counter() if claims is None else claims)


def merge_result(search: Search, out: AttackResult) -> Tensor:
    """Merge the result of an inner attack into the search; return bool [n], the samples that it broke."""
    broken = out.status == Status.BROKEN
    search.offer(out.x_adv, broken)
    search.best.not_finite |= out.status == Status.FAILED
    if out.backwards:
        # the size is not known, only whether it was ever more than zero
        largest = search.best.largest_gradient
        torch.maximum(largest, (~out.zero_gradient).to(largest), out=largest)
    return broken
