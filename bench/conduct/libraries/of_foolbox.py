"""Attacks of foolbox, which says what succeeded. What it returns second is clipped to radius and bounds."""

from typing import Any

import foolbox as fb
from torch import Tensor, nn

from bench.conduct.attack import BOUNDS, RADIUS, RESTARTS, START, STEP, TARGETS, Answer, Attack, Given, can


def attack(name: str, norm: str, *takes: str, **fixed: Any) -> Attack:
    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        asked: dict[str, Any] = {"steps": given.steps, **fixed}
        if STEP in takes:
            asked |= {"abs_stepsize": given.stride, "random_start": given.start}
        made = getattr(fb.attacks, name)(**asked)
        if given.restarts > 1:
            made = made.repeat(given.restarts)
        if given.targets is None:
            criterion = fb.criteria.Misclassification(y)
        else:
            criterion = fb.criteria.TargetedMisclassification(given.targets)
        wrapped = fb.PyTorchModel(model, bounds=given.bounds, device=x.device)
        out = made(wrapped, x, criterion, epsilons=given.radius if RADIUS in takes else None)
        return Answer(out[1], out[2])

    targeted = () if "DeepFool" in name else (TARGETS,)  # it says so by an error
    return Attack("foolbox", name.removesuffix("Attack"), norm, call, can(*takes, BOUNDS, *targeted))


PGD = (RADIUS, STEP, START, RESTARTS)
ATTACKS = (
    attack("LinfProjectedGradientDescentAttack", "linf", *PGD),
    attack("L2ProjectedGradientDescentAttack", "l2", *PGD),
    attack("L1ProjectedGradientDescentAttack", "l1", *PGD),
    attack("L2CarliniWagnerAttack", "l2", binary_search_steps=6),
    attack("EADAttack", "l1", binary_search_steps=6),
    attack("DDNAttack", "l2"),
    attack("L2DeepFoolAttack", "l2"),
    attack("L2FMNAttack", "l2"),
)
