"""Natural evolution strategies: steps along gradients estimated from scores (Ilyas et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses, rng
from fastadv._checks import check_share
from fastadv.attacks import core
from fastadv.attacks.core.problem import StepSize
from fastadv.attacks.methods.ascent import step_size_for
from fastadv.attacks.methods.estimate import estimated_ascent, steps_for
from fastadv.attacks.methods.geometry import positive, width
from fastadv.threat import Threat


class _Rows(core.Rows):
    momentum: Tensor


@core.registered(knowledge="score", random=True, paper="Ilyas et al. 2018", tolerance=1.5)
@core.tested(quick={"queries": 210, "directions": 10}, oracle={"queries": 20200, "directions": 100})
@core.takes_common(norms=("linf", "l2"), finite=True, queries=1, directions=1)
def nes(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, queries: int = 10_000,
    directions: int = 25, probe: float | None = None, step_size: StepSize | None = None, decay: float = 0.9,
    loss: losses.Loss | None = None, stop_early: bool = True, seed: int = 0, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by projected ascent along estimated gradients.

    The gradient is the mean of (L(z + probe u) - L(z - probe u)) / (2 probe) u over normal directions u.
    Steps follow m <- decay * m + (1 - decay) * gradient, as in the authors' code, from x.

    Args:
        queries: the most samples that pass the model for each image; at least 2 * directions + 1. 10,000 as
            in the authors' code.
        directions: for each step, an integer >= 1; each is probed on both sides, so that 25 are the 50
            samples of the authors' code.
        probe: the standard deviation of a probe's coordinates, a number > 0. None is 0.001 of the width of
            the box.
        step_size: a number or [B], in input units; None is 2.5 * radius / steps.
        decay: weight of the estimates so far, in [0, 1).

    Source:
        Ilyas et al. 2018, "Black-box Adversarial Attacks with Limited Queries and Information" (arXiv
        1804.08598), section 2.
    """
    steps = steps_for(queries, directions)
    away = positive("probe", probe, 1e-3 * width(threat))
    check_share("decay", decay, zero=True)
    size = step_size_for(threat, x, steps, 2.5, step_size)

    def move(search: core.Search[_Rows], gradient: Tensor, points: Tensor, step: int) -> Tensor:
        rows = search.rows
        rows.momentum = gradient if not step else rows.momentum.mul_(decay).add_(gradient, alpha=1 - decay)
        return search.threat.step(points, rows.momentum, search.x, search.per_sample(size))

    rule = estimated_ascent("nes", rng.normal, steps, directions, away, loss, move)
    return core.run(
        model, x, y, threat, rule, rows=_Rows, loss=loss, stop_early=stop_early, seed=seed, **common
    )
