"""Transfer: perturbations made on substitutes, scaled until they fool the model."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn

from fastadv import ops
from fastadv.attacks import core
from fastadv.attacks.core.task import handed
from fastadv.attacks.methods.bisection import Interval, halve, middle
from fastadv.attacks.methods.geometry import like, width
from fastadv.attacks.methods.inner import InnerAttack, check_attack, inner_task, run_inner
from fastadv.attacks.minimum_radius import minimum_radius
from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.room import ran_out
from fastadv.errors import InputError
from fastadv.text import first_line
from fastadv.threat import Threat
from fastadv.threat.checks import check_threat

# the scales tried first: the largest coordinate moves by these shares of the box, 1 and more to its edge
FIRST, LAST = 2.0**-8, 2.0**4


class _Rows(Interval):
    unit: Tensor


@core.registered(kind="minimum", knowledge="decision", requires="a substitute", paper="Schott et al. 2018")
@core.takes_common(through="none", scales=2, searches=0)
def transfer(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *,
    source: Model | Prepared | Sequence[Model | Prepared], attack: InnerAttack, scales: int = 24,
    searches: int = 10, **common: Unpack[core.Common],
) -> core.AttackResult:  # fmt: skip
    """Find the smallest multiple, in the box, of a perturbation of a substitute that fools the model.

    The attack runs on each substitute. Each of its perturbations is tried at `scales` lengths, all in one
    batch; between the least that fools the model and the one before, `searches` bisections follow. Only
    decisions of the model are used.

    Args:
        threat: of a norm that the attack takes; the radius is inf, or the largest distance of interest.
        source: the substitutes: one or a sequence of classifiers with the classes of the model. The nearest
            success over all counts. Their passes are not counted.
        attack: such as `partial(fastadv.attacks.bim, steps=10)`; called as attack(source, x, y, threat=...,
            targets=..., ids=...), with the criterion and the mask where there are any. If it is a budget
            attack and the radius is inf, `minimum_radius` finds its perturbations.
        scales: lengths of a perturbation, >= 2, in even ratios from 1/256 to 16, where 1 takes the pixel that
            moves most across the whole box. The paper gives no number.
        searches: bisections, >= 0. The paper gives no number.
        others: as in `pgd`, and so are Returns and Raises.

    Example:
        >>> source = fa.models.create("softmax", shape=(1, 8, 8), classes=10, seed=1)
        >>> out = fa.attacks.transfer(model, x, y, fa.L2(8), source=source, attack=fa.attacks.bim)
        >>> tuple(out.x_adv.shape)
        (8, 1, 8, 8)

    Source:
        Schott et al. 2018 (arXiv 1805.09190).
    """
    check_threat(threat)
    check_attack(attack)
    several = source if isinstance(source, Sequence | nn.ModuleList) else [source]
    sources = [prepare(one, outputs=handed(model).classifier.outputs) for one in several]
    if not sources:
        raise InputError("source: expected a substitute or several, got an empty sequence")
    searched = partial(minimum_radius, attack=attack)

    def rule(search: core.Search[_Rows]) -> None:
        assert search.problem.clean is not None
        _check_classes(sources, search, search.problem.clean.shape[1])
        for substitute in sources:
            budget = _budget(search)
            task = inner_task(search, budget)
            rows = torch.arange(len(task.x), device=task.x.device)
            task = replace(task, classifier=substitute, rows=rows, clean=None)
            try:
                out = run_inner(attack, task)
            except InputError:  # a budget attack refuses an infinite radius
                if budget.finite:
                    raise
                out = run_inner(searched, task)
            away = out.x_adv - search.x
            most = like(ops.largest(away), away)
            # the largest coordinate of the unit is as wide as the box
            search.rows.unit = away * torch.where(most > 0, width(threat) / most, 0.0)
            _scale(search)

    def _budget(search: core.Search[_Rows]) -> Threat:
        """Return the caller's threat, for attacks on a substitute; the search itself has no radius."""
        radius = torch.as_tensor(threat.radius, device=search.x.device)
        return threat.with_radius(search.per_sample(radius)) if radius.ndim else threat

    def _scale(search: core.Search[_Rows]) -> None:
        rows = search.rows
        tried = torch.logspace(0, 1, scales, LAST / FIRST, dtype=torch.float64, device="cpu") * FIRST
        tried = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), tried]).to(search.x)
        steps = tried[1:].view(-1, *[1] * (search.x.ndim - 1))
        points = search.x.unsqueeze(1) + steps * rows.unit.unsqueeze(1)
        look = search.decide(points.clamp_(*threat.box))
        first = look.adversarial.to(torch.int64).argmax(1)  # the first of the largest
        rows.low, rows.high = tried[first], tried[first + 1]
        for _ in range(searches):
            points = (search.x + like(middle(rows), search.x) * rows.unit).clamp_(*threat.box)
            halve(rows, search.decide(points).adversarial)

    return core.run(model, x, y, threat, rule, rows=_Rows, minimum=True, **common)


def _check_classes(sources: Sequence[Prepared], search: core.Search, classes: int) -> None:
    for number, substitute in enumerate(sources):
        width = logits_of(substitute, search.x[:1], "source").shape[1]
        if width != classes:
            which = "" if len(sources) == 1 else f" as number {number}"
            raise InputError(
                f"source: expected a net with the {classes} classes of the model, "
                f"got one with {width}{which}; a label must mean the same to both"
            )


def logits_of(classifier: Prepared, x: Tensor, name: str) -> Tensor:
    """Return the logits of x; InputError about the argument `name` where the net refuses such images."""
    try:
        return classifier.verdict(x)
    except Exception as error:  # models raise anything
        if isinstance(error, InputError) or ran_out(error):
            raise
        size = list(x.shape[1:])
        raise InputError(
            f"{name}: expected nets that take x [B, {', '.join(map(str, size))}], got one that raises "
            f"({first_line(error)}); resize in front of it: nn.Sequential(nn.Upsample((height, width)), net)"
        ) from error
