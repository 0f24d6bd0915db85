"""Attacks of fastadv."""

from typing import Any

from torch import Tensor, nn

import fastadv as fa
from bench.conduct.attack import BOUNDS, RADIUS, RESTARTS, START, STEP, TARGETS, Answer, Attack, Given, can


def attack(name: str, norm: str, *takes: str, loss: str = "", **fixed: Any) -> Attack:
    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        radius = given.radius if RADIUS in takes else float("inf")
        asked: dict[str, Any] = {"steps": given.steps, "targets": given.targets, **fixed}
        if STEP in takes:
            asked["step_size"] = given.stride
        if START in takes:
            asked["random_start"] = given.start
        if RESTARTS in takes:
            asked["restarts"] = given.restarts
        if loss or RADIUS in takes:
            asked["loss"] = loss or "ce"  # that of the papers, which the other packages ascend
        out = getattr(fa.attacks, name)(model, x, y, fa.threat.THREATS[norm](radius, given.bounds), **asked)
        return Answer(out.x_adv, out.success)

    def exported(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Tensor:
        found = call(model, x, y, given).x_adv
        return (fa.ops.quantize_in_ball(found, x, norm, given.radius) * 255).round().byte()

    return Attack(
        "fastadv", name, norm, call, can(*takes, TARGETS, BOUNDS), loss, exported if START in takes else None
    )


ATTACKS = (
    attack("pgd", "linf", RADIUS, STEP, START, RESTARTS),
    attack("pgd", "l2", RADIUS, STEP, START, RESTARTS),
    attack("pgd", "l1", RADIUS, STEP, START, RESTARTS),
    attack("apgd", "linf", RADIUS, RESTARTS),
    attack("apgd", "linf", RADIUS, RESTARTS, loss="dlr"),
    attack("cw", "l2", searches=6),
    attack("ead", "l1", searches=6),
    attack("ddn", "l2"),
    attack("deepfool", "l2"),
    attack("fmn", "l2"),
)
