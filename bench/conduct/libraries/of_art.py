"""Attacks of ART, the Adversarial Robustness Toolbox, in which images are arrays. It gives images alone."""

from collections.abc import Callable
from typing import Any

import torch
from art.attacks import evasion as ae
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from bench.conduct.attack import (
    BOUNDS,
    ORDER,
    RADIUS,
    RESTARTS,
    START,
    STEP,
    TARGETS,
    Answer,
    Attack,
    Given,
    can,
)


def attack(name: str, norm: str, make: Callable[[Any, Given], Any], *takes: str, loss: str = "") -> Attack:
    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), given.classes, clip_values=given.bounds,
            device_type="cpu",
        )  # fmt: skip
        towards = y if given.targets is None else given.targets
        return Answer(torch.from_numpy(make(classifier, given).generate(x.numpy(), towards.numpy())))

    return Attack("ART", name, norm, call, can(*takes, BOUNDS), loss)


def pgd(norm: str) -> Attack:
    def make(classifier: Any, given: Given) -> Any:
        return ae.ProjectedGradientDescentPyTorch(
            classifier, norm=ORDER[norm], eps=given.radius, eps_step=given.stride, max_iter=given.steps,
            targeted=given.targets is not None, batch_size=512, verbose=False,
            num_random_init=given.restarts if given.start or given.restarts > 1 else 0,
        )  # fmt: skip

    return attack("ProjectedGradientDescent", norm, make, RADIUS, STEP, START, RESTARTS, TARGETS)


def apgd(loss: str) -> Attack:
    def make(classifier: Any, given: Given) -> Any:
        return ae.AutoProjectedGradientDescent(
            classifier, eps=given.radius, eps_step=given.stride, max_iter=given.steps, batch_size=512,
            nb_random_init=given.restarts, loss_type=loss, verbose=False,
        )  # fmt: skip

    short = "" if loss == "cross_entropy" else "dlr"
    return attack("AutoProjectedGradientDescent", "linf", make, RADIUS, STEP, RESTARTS, loss=short)


def searching(name: str, norm: str) -> Attack:
    def make(classifier: Any, given: Given) -> Any:
        return getattr(ae, name)(
            classifier, targeted=given.targets is not None, max_iter=given.steps, binary_search_steps=6,
            batch_size=512, verbose=False,
        )  # fmt: skip

    return attack(name, norm, make, TARGETS)


ATTACKS = (
    pgd("linf"),
    pgd("l2"),
    pgd("l1"),
    apgd("cross_entropy"),
    apgd("difference_logits_ratio"),
    searching("CarliniL2Method", "l2"),
    searching("ElasticNet", "l1"),
    attack(
        "DeepFool", "l2",
        lambda c, g: ae.DeepFool(c, max_iter=g.steps, epsilon=0.02, batch_size=512, verbose=False),
    ),
)  # fmt: skip
