"""Attacks of torchattacks. It gives images alone."""

from collections.abc import Callable
from typing import Any

import torchattacks as ta
from torch import Tensor, nn

from bench.conduct.attack import RADIUS, RESTARTS, START, STEP, TARGETS, Answer, Attack, Given, can


def attack(
    name: str,
    norm: str,
    make: Callable[[nn.Module, Given], Any],
    *takes: str,
    loss: str = "",
    many: bool = False,
) -> Attack:
    """`many`: restarts are those of its MultiAttack, which it documents for them."""

    def made(model: nn.Module, given: Given) -> Any:
        if many and given.restarts > 1:
            return ta.MultiAttack([make(model, given) for _ in range(given.restarts)])
        return make(model, given)

    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        run = made(model, given)
        if given.targets is None:
            return Answer(run(x, y))
        run.set_mode_targeted_by_label(quiet=True)
        return Answer(run(x, given.targets))

    def exported(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Tensor:
        found: Tensor = ta.attack.Attack("", model).to_type(call(model, x, y, given).x_adv, "int")
        return found

    return Attack("torchattacks", name, norm, call, can(*takes), loss, exported if many else None)


ATTACKS = (
    attack(
        "PGD", "linf",
        lambda m, g: ta.PGD(m, eps=g.radius, alpha=g.stride, steps=g.steps, random_start=g.start),
        RADIUS, STEP, START, RESTARTS, TARGETS, many=True,
    ),
    attack(
        "PGDL2", "l2",
        lambda m, g: ta.PGDL2(m, eps=g.radius, alpha=g.stride, steps=g.steps, random_start=g.start),
        RADIUS, STEP, START, RESTARTS, TARGETS, many=True,
    ),
    attack(
        "APGD", "linf",
        lambda m, g: ta.APGD(m, eps=g.radius, steps=g.steps, n_restarts=g.restarts),
        RADIUS, RESTARTS,
    ),
    attack(
        "APGD", "linf",
        lambda m, g: ta.APGD(m, eps=g.radius, steps=g.steps, n_restarts=g.restarts, loss="dlr"),
        RADIUS, RESTARTS, loss="dlr",
    ),
    attack("CW", "l2", lambda m, g: ta.CW(m, c=10, steps=g.steps), TARGETS),
    attack(
        "EADL1", "l1",
        lambda m, g: ta.EADL1(m, max_iterations=g.steps, binary_search_steps=6), TARGETS,
    ),
    attack("DeepFool", "l2", lambda m, g: ta.DeepFool(m, steps=g.steps)),
)  # fmt: skip
