"""What the probes see of samples, given those that attacks have broken already."""

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.problem import Problem
from fastadv.attacks.masking import probes
from fastadv.engine import Frozen


def observed(
    frozen: Frozen, problem: Problem, broken: Tensor, seed: int, *, blind: bool
) -> dict[str, Tensor]:
    """Return [m] for each indicator that can be seen on the samples of `problem`, which the model gets right.

    broken: bool [m]. blind: search without gradients, too, where no attack did. "budget" are the samples that
    are broken at twice the radius, all others what speaks against the attacks.
    """

    def of(purpose: str) -> int:
        return rng.derive(seed, f"indicators {purpose}")

    found = {"zero_gradient": probes.without_gradient(frozen, problem.x, problem.y)}
    boxed, finite = probes.bounded(problem), problem.threat.finite
    wide = torch.zeros_like(broken)
    if boxed:
        found["unstable"] = probes.changes(frozen, problem, of("unstable")).nan_to_num(1.0)
    if finite:
        found["budget"] = wide = probes.broken_at_twice(frozen, problem, of("budget"))
    held = ~broken
    left = problem.take(held.nonzero().squeeze(1).to(problem.x.device))

    def among_held(marked: Tensor) -> Tensor:
        return torch.zeros_like(broken).masked_scatter(held, marked)

    if not len(left.x):
        told = ("unconstrained",) * boxed + ("noise", *("square",) * blind) * finite
        return found | {name: torch.zeros_like(broken) for name in told}
    if boxed:
        free = probes.broken_without_radius(frozen, left, of("unconstrained"))
        found["unconstrained"] = among_held(~(free | wide[held]))
    if finite:
        found["noise"] = among_held(probes.broken_by_noise(frozen, left, of("noise")))
        if blind:
            found["square"] = among_held(probes.broken_by_square(frozen, left, of("square")))
    return found
