"""DeepFool: iterated linearization of the nearest decision boundary (Moosavi-Dezfooli et al. 2016)."""

from typing import Unpack

from torch import Tensor

from fastadv._checks import check_number
from fastadv.attacks import core
from fastadv.attacks.methods.hyperplane import beyond, largest_others, nearest_boundary
from fastadv.threat import Threat


@core.registered(needs="classes", kind="minimum", paper="Moosavi-Dezfooli et al. 2016")
@core.tested(quick={"steps": 10}, oracle={"steps": 50})
@core.takes_common(norms=("linf", "l2"), steps=1, candidates=1)
def deepfool(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *, steps: int = 50,
    candidates: int | None = 10, overshoot: float = 0.02, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Minimize ||z - x|| over adversarial z in the box, by projections onto linearized class boundaries.

    At each step the boundaries between the label and its rivals are taken for hyperplanes. z moves to the
    nearest one and beyond it by the share `overshoot`, and is clipped to the box, until the decision changes.
    With targets or a criterion, the one boundary is where its margin is zero.

    Args:
        steps: the most projections, >= 1; 50 as in the authors' code. The paper continues until a success.
        candidates: how many other classes, those with the largest logits, are rivals, >= 1; None is all. Each
            costs a backward pass at each step. The authors' code has nine.
        overshoot: the share by which each step goes beyond the boundary, >= 0.

    Example:
        >>> out = fa.attacks.deepfool(model, x, y, fa.L2(float("inf")))
        >>> bool(out.success.all()), bool((out.distance < 2).all())
        (True, True)

    Source:
        Moosavi-Dezfooli et al. 2016, "DeepFool" (arXiv 1511.04599), algorithm 2; section 3.3 for Linf.
    """
    check_number("overshoot", overshoot, 0)

    def rule(search: core.Search) -> None:
        def rivals(logits: Tensor) -> Tensor:
            return largest_others(logits, search.y, candidates)

        points = search.x
        for _ in range(steps):
            near = nearest_boundary(search, points, rivals)
            search.leave(near.look.adversarial)
            points = beyond(near, threat, overshoot).clamp_(*threat.box)
        search.finish(points)

    return core.run(model, x, y, threat, rule, minimum=True, **common)
