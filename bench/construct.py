"""The sets D_rand and D_R of Ilyas et al. 2019 beside the same searches in eager torch, and the passes alone.

A small CNN and random images; the paper's budgets, of D_R's thousand steps a hundred.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import fastadv as fa
from bench import pgd
from bench.gpu import nets
from bench.gpu.construct import by_fastadv, by_hand
from bench.gpu.training import random_images
from bench.timing import quantiles, ratio, times
from fastadv.data.construct import CIFAR10_PAPER

IMAGES, STEPS, WIDTH = 64, 100, 32
SETS = {"D_rand": "d_rand", "D_R": "d_r"}


def rows(device: torch.device, seconds: float) -> Iterator[dict[str, Any]]:
    """One row for each provider of each set, with its figures of the result."""
    net, data = nets.small_net(width=WIDTH).to(device), random_images(IMAGES).to(device)
    x = data.x.float() / 255
    for name, budget in SETS.items():
        given: Any = (name, net, data, {**CIFAR10_PAPER[budget], "steps": STEPS}, IMAGES)
        ways: dict[str, Callable[[], Any]] = {
            "eager": partial(by_hand, *given),
            "fastadv fp32": partial(by_fastadv, *given, "fp32"),
            "fastadv bf16": partial(by_fastadv, *given, "bf16"),
        }
        searched = pgd.Problem(name, net, x, pgd.classes(net, x), 0.0, 0.0, STEPS)
        alone = {p: partial(pgd.passes, searched, fa.freeze(net, p)) for p in ("fp32", "bf16")}
        taken = times({**ways, **alone}, seconds, least=3)
        for provider, way in ways.items():
            values = taken[provider]
            passes = taken["bf16" if "bf16" in provider else "fp32"]
            yield {
                "what": f"{name}, {IMAGES} images, {STEPS} steps, small CNN of width {WIDTH}",
                "provider": provider,
                **quantiles(values),
                **way(),
                "share_of_ceiling": round(ratio(passes, values), 3),
                "times_eager": round(ratio(taken["eager"], values), 2),
            }
