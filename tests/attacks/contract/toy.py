"""Two attacks of a page each, to show what the core asks of a newcomer: the contract runs over them too."""

from typing import Unpack

from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count
from fastadv.attacks.core.card import Attack
from fastadv.attacks.core.common import Common, takes_common
from fastadv.attacks.core.problem import check_finite_radius, check_norm
from fastadv.attacks.core.result import AttackResult
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Search
from fastadv.threat import Threat


@takes_common
def newton(
    model: object, x: Tensor, y: Tensor, threat: Threat, *, steps: int, **common: Unpack[Common]
) -> AttackResult:
    """The shortest way to where the margin, taken as linear, is zero; then a little further."""

    check_norm("newton", threat, ("l2",))
    check_count("steps", steps, 1)

    def rule(search: Search) -> None:
        points = search.start()
        for _ in range(steps):
            look = search.gradient(points, search.problem.margin)
            assert look.gradient is not None
            assert look.loss is not None
            flat = look.gradient.flatten(1)
            length = flat.norm(dim=1).clamp_min(1e-12)
            reach = -1.5 * look.loss.to(flat.dtype) / length**2
            moved = (look.x_adv.flatten(1) + reach[:, None] * flat).view_as(look.x_adv)
            points = moved.clamp(*search.threat.box)
            search.leave(look.adversarial)
        search.last(points)

    return run(model, x, y, threat, rule, minimum=True, **common)  # type: ignore[arg-type]


@takes_common
def guess(
    model: object, x: Tensor, y: Tensor, threat: Threat, *, queries: int, seed: int = 0,
    **common: Unpack[Common],
) -> AttackResult:  # fmt: skip
    """Corners of the ball, drawn blindly."""

    check_norm("guess", threat, ("linf",))
    check_finite_radius(threat)
    check_count("queries", queries, 1)

    def rule(search: Search) -> None:
        for draw in range(queries):
            bits = rng.uniform(search.x[0].numel(), rng.derive(search.seed, "guess"), search.ids, draw)
            away = (bits.view_as(search.x) - 0.5).to(search.x.dtype)
            corner = search.threat.project(search.x + 1e3 * away.sign(), search.x)
            search.decide(corner, search.plan.loss)

    return run(model, x, y, threat, rule, stop_early=True, seed=seed, **common)  # type: ignore[arg-type]


TOYS = {
    "toy newton": Attack(newton, kind="minimum", norms=("l2",), quick={"steps": 20}, tolerance=1.6),
    "toy guess": Attack(
        guess, knowledge="decision", norms=("linf",), random=True, quick={"queries": 30}, tolerance=50
    ),
}
