"""Attacks of adv-lib, which gives images alone and has the bounds 0 and 1."""

from collections.abc import Callable
from importlib import import_module

from torch import Tensor, nn

from bench.conduct.attack import ORDER, RADIUS, RESTARTS, START, STEP, TARGETS, Answer, Attack, Given, can

import_module("fastadv._torchvision")  # adv-lib imports torchvision, which fails beside a CPU-only torch
al = import_module("adv_lib.attacks")
auto = import_module("adv_lib.attacks.auto_pgd")
Call = Callable[[nn.Module, Tensor, Tensor, Given, bool], Tensor]


def attack(name: str, norm: str, call: Call, *takes: str, loss: str = "") -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        towards = y if given.targets is None else given.targets
        return Answer(call(model, x, towards, given, given.targets is not None))

    return Attack("adv-lib", name, norm, run, can(*takes, TARGETS), loss)


def apgd(norm: str, loss: str) -> Attack:
    def call(m: nn.Module, x: Tensor, y: Tensor, g: Given, t: bool) -> Tensor:
        out: Tensor = auto.apgd(
            m,
            x,
            y,
            g.radius,
            ORDER[norm],
            targeted=t,
            n_iter=g.steps,
            n_restarts=g.restarts,
            loss_function=loss,
        )
        return out

    return attack("apgd", norm, call, RADIUS, RESTARTS, loss="dlr" if loss == "dlr" else "")


ATTACKS = (
    attack(
        "pgd_linf", "linf",
        lambda m, x, y, g, t: al.pgd_linf(
            m, x, y, g.radius, targeted=t, steps=g.steps, random_init=g.start, restarts=g.restarts,
            absolute_step_size=g.stride,
        ),
        RADIUS, STEP, START, RESTARTS,
    ),
    apgd("linf", "ce"),
    apgd("l2", "ce"),
    apgd("linf", "dlr"),
    attack(
        "carlini_wagner_l2", "l2",
        lambda m, x, y, g, t: al.carlini_wagner_l2(
            m, x, y, targeted=t, max_iterations=g.steps, binary_search_steps=6
        ),
    ),
    attack("ddn", "l2", lambda m, x, y, g, t: al.ddn(m, x, y, targeted=t, steps=g.steps)),
    attack("fmn", "l2", lambda m, x, y, g, t: al.fmn(m, x, y, 2.0, targeted=t, steps=g.steps)),
    attack("alma", "l2", lambda m, x, y, g, t: al.alma(m, x, y, targeted=t, num_steps=g.steps)),
    attack("df", "l2", lambda m, x, y, g, t: al.df(m, x, y, targeted=t, steps=g.steps)),
)  # fmt: skip
