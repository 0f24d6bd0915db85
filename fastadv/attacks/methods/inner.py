"""Attacks that run another attack."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.core.common import Classifier
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.search import Search
from fastadv.attacks.core.task import Task
from fastadv.attacks.methods.claims import checked, is_own
from fastadv.engine.precision import with_gradient
from fastadv.errors import InputError
from fastadv.threat import Threat

InnerAttack = Callable[..., AttackResult]


def check_attack(attack: Any) -> None:
    if not callable(attack):
        raise InputError(f"attack: expected an attack, as partial(fa.attacks.bim, steps=10), got {attack!r}")


def call_attack(attack: InnerAttack, task: Task, model: Classifier, x: Tensor, y: Tensor) -> AttackResult:
    """Return an attack of the caller's choice, by all that defines a success in a task."""
    options: dict[str, Any] = {"targets": task.targets, "ids": task.ids}
    if task.criterion is not WRONG:
        options["criterion"] = task.criterion
    if task.mask is not None:
        options["mask"] = task.mask
    return attack(model, x, y, threat=task.threat, **options)


def inner_task(search: Search, threat: Threat, targets: Tensor | None = None) -> Task:
    """Return the task of the samples of a search in another threat."""
    task = search.problem.within(threat)
    return task if targets is None else task.towards(targets)


def run_inner(attack: InnerAttack, task: Task, claims: Counter[str] | None = None) -> AttackResult:
    """Run an attack of the caller's choice on a task; `claims` counts what one of his own claims."""
    if not is_own(attack):
        return call_attack(attack, task, task, task.x, task.y)
    about = task.classifier.of(task.x, task.ids)  # which is asked without rows
    with with_gradient():
        out = call_attack(attack, task, about, task.x.clone(), task.y.clone())
    every = torch.ones_like(task.ids, dtype=torch.bool)
    return checked("attack", out, task, every, Counter() if claims is None else claims)


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
