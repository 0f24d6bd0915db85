"""What "strong" adds to the standard version: further attacks on what that left."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from fastadv import losses, rng
from fastadv.attacks import core
from fastadv.attacks.auto.component import ATTACKS, Component
from fastadv.attacks.auto.run import Run
from fastadv.attacks.auto.versions import aims, ascent, proximal, search
from fastadv.engine import Prepared
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import Threat

RESTARTS = 5  # of APGD on one loss; through all targets it has 2
ALL, NEAREST = 20, 30  # up to so many other classes all are targets; of more, the nearest


def stages(run: Run, bpda: Prepared | None, sources: Sequence[Prepared]) -> list[Component]:
    """Return what "strong" adds, in its order: nothing that depends on how other samples fared."""
    classes, free = run.trial.clean.shape[1] - 1, aims(run)
    dlr = "dlr" if run.plain else "margin"
    found = []
    if bpda is not None:
        # the margin of saturated outputs leads to one of many equal classes, their cross-entropy to all
        through = [ascent("bpda apgd-ce", "ce"), ascent("bpda apgd-margin", "margin")]
        through += [ascent("bpda apgd-t", f"{dlr}-targeted", classes=min(9, classes))] if free else []
        found += [replace(one, attack=partial(elsewhere, other=bpda)) for one in through]
    if run.trial.problem.threat.norm != "linf":
        # what minimizes the norm breaks samples there that no ascent in the ball does
        found.append(proximal("pdpgd"))
    found += [
        ascent("restarts apgd-margin", "margin", restarts=RESTARTS),
        ascent("restarts apgd-ce-sharp", "ce_sharp", restarts=RESTARTS),
    ]
    if free:
        few = classes <= ALL
        count = classes if few else NEAREST
        found.append(ascent("targets apgd-t", f"{dlr}-targeted", classes=count, nearest=not few, restarts=2))
    for number, source in enumerate(sources):
        name = "transfer" if len(sources) == 1 else f"transfer {number}"
        found.append(Component(name, partial(onward, source=source, loss=dlr)))
    return [*found, replace(search(5000), name="restarts square")]


def elsewhere(
    model: Prepared, x: Tensor, y: Tensor, threat: Threat, *, other: Prepared, seed: int, **options: Any
) -> core.AttackResult:
    """Run APGD on another model than the one that judges; its passes are counted as the model's.

    Where the other has finite logits for none of the samples, it finds nothing.
    """
    try:
        out = ATTACKS["apgd"](other, x, y, threat=threat, seed=seed, **options)
    except InputError:
        if bool(other.verdict(x).isfinite().all(1).any()):
            raise
        common: Any = {name: options[name] for name in core.Common.__annotations__ if name in options}
        return core.run(model, x, y, threat, lambda search: None, seed=seed, **common)
    model.forwards += out.forwards
    model.backwards += out.backwards
    return out


def onward(
    model: Prepared,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    source: Prepared,
    loss: losses.Loss,
    seed: int,
    **options: Any,
) -> core.AttackResult:
    """Run APGD on a source to the end, and then on the model from the points that it found."""
    try:
        crafted = elsewhere(
            model, x, y, threat, other=source, stop_early=False, seed=rng.derive(seed, "source"),
            **options,
        )  # fmt: skip
    except NoGradientError as error:
        raise InputError("source: expected a net with gradients, got one that cuts the graph") from error
    try:
        out = ATTACKS["apgd"](model, x, y, threat, loss=loss, starts=crafted.x_adv, seed=seed, **options)
    except NoGradientError:  # the points themselves may be enough

        def rule(search: core.Search) -> None:
            search.finish(search.per_sample(crafted.x_adv))

        out = core.run(model, x, y, threat, rule, seed=seed, **options)
    spent = out.forwards + crafted.forwards, out.backwards + crafted.backwards
    return replace(out, forwards=spent[0], backwards=spent[1])
