"""Attacks of cleverhans, which gives images alone."""

from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
from torch import Tensor, nn

from bench.conduct.attack import BOUNDS, ORDER, RADIUS, START, STEP, TARGETS, Answer, Attack, Given, can


def pgd(norm: str) -> Attack:
    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        return Answer(
            projected_gradient_descent(
                model, x, given.radius, given.stride, given.steps, ORDER[norm], clip_min=given.bounds[0],
                clip_max=given.bounds[1], y=y if given.targets is None else given.targets,
                targeted=given.targets is not None, rand_init=given.start,
            )
        )  # fmt: skip

    takes = can(RADIUS, STEP, START, TARGETS, BOUNDS)
    return Attack("cleverhans", "projected_gradient_descent", norm, call, takes)


def cw(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
    return Answer(
        carlini_wagner_l2(
            model, x, given.classes, y=y if given.targets is None else given.targets,
            targeted=given.targets is not None, clip_min=given.bounds[0], clip_max=given.bounds[1],
            binary_search_steps=6, max_iterations=given.steps,
        )
    )  # fmt: skip


ATTACKS = (
    pgd("linf"),
    pgd("l2"),
    Attack("cleverhans", "carlini_wagner_l2", "l2", cw, can(TARGETS, BOUNDS)),
)
