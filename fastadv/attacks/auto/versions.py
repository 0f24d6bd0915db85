"""Which components the versions of AutoAttack have, and which ones lists may name."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from fastadv.attacks.auto.run import Component, Run
from fastadv.errors import InputError

Version = Literal["standard", "plus", "rand", "quick", "screen", "strong", "robustvlm"]
VERSIONS = ("standard", "plus", "rand", "quick", "screen", "strong", "robustvlm")
NAMES = ("apgd-ce", "apgd-ce-sharp", "apgd-dlr", "apgd-margin", "apgd-t", "fab", "fab-t", "pdpgd", "square")
PROXIMAL = 300  # steps of PDPGD
# the plan of "strong"
RESTARTS = 5  # of APGD on one loss; through all targets it has 2
ALL, NEAREST = 20, 30  # up to so many other classes all are targets; of more, the nearest


def check_version(version: Version | Sequence[str]) -> None:
    wanted, listed = f"one of {', '.join(VERSIONS)}", f"a list of the names {', '.join(NAMES)}"
    if isinstance(version, str):
        if version not in VERSIONS:
            more = f'; for that component alone give ["{version}"]' if version in NAMES else ""
            more = '; give its components, such as ["apgd-ce", "apgd-dlr"]' if version == "custom" else more
            raise InputError(f"version: expected {wanted}, got {version!r}{more}")
        return
    if not isinstance(version, Sequence) or not version:
        raise InputError(f"version: expected {wanted}, or {listed}, got {version!r}")
    for part in version:
        if part not in NAMES:
            raise InputError(f"version: expected {listed}, got {part!r} in it")
    if len(set(version)) < len(version):
        raise InputError(f"version: expected {listed}, each once, got {version!r}")


def components(version: Version | Sequence[str], run: Run) -> list[Component]:
    problem = run.trial.problem
    sparse, free = problem.threat.norm == "l1", aims(run)
    classes = run.trial.clean.shape[1] - 1
    dlr = "dlr" if run.plain else "margin"
    name = f"apgd-{dlr}"

    def targeted(count: int, steps: int = 100, **more: Any) -> list[Component]:
        count = min(count, classes)
        if free:
            return [ascent("apgd-t", **{"loss": f"{dlr}-targeted", **more}, steps=steps, classes=count)]
        # another loss would not lead to another class: restarts of one attack, under their own name
        return [] if problem.targets is not None else [ascent(name, dlr, steps, restarts=count)]

    if not isinstance(version, str):
        several = {"restarts": 5} if sparse else {}
        known = [
            ascent(f"apgd-{loss.replace('_', '-')}", loss, **several)
            for loss in ("ce", "ce_sharp", dlr, "margin")
        ]
        known += [boundary("fab", targeted=False, classes=None), search(5000, rescale=False)]
        known += [*targeted(5 if sparse else 9), boundary("fab-t", targeted=True)] if free else []
        known += [proximal("pdpgd")] if problem.threat.norm != "linf" else []
        return _named(version, {one.name: one for one in known})
    if version == "rand":
        return [ascent("apgd-ce-sharp", "ce_sharp"), ascent(name, dlr)]
    if version == "robustvlm":  # of two classes its authors run the first alone
        return [ascent("apgd-ce", "ce", restarts=5), *(targeted(9) if classes > 1 else [])]
    if version == "screen":
        if problem.threat.norm == "l2":
            return [
                ascent("apgd-ce-sharp", "ce_sharp", 17, larger=[2.0]),
                replace(proximal("pdpgd"), arguments={"steps": 47}),
                ascent("apgd-margin", "margin", 28, larger=[2.0]),
            ]
        start, balls = ([3.0, 2.0], [3.0, 2.0]) if sparse else ([1.5], [2.0])
        # classes by their logits: the order of `nearest` costs a backward pass for each class
        count, steps = min(3, classes), 45 if sparse else 48
        aimed = targeted(count, steps // count, loss="margin-targeted", larger=balls)
        return [
            ascent("apgd-ce-sharp", "ce_sharp", 17, larger=start),
            *(aimed if free else [ascent(name, dlr, steps, larger=balls)]),
            ascent("second apgd-ce-sharp", "ce_sharp", 26, larger=balls),
        ]
    if version == "quick":
        twice = name == "apgd-margin" and not free
        first = ascent("apgd-ce-sharp", "ce_sharp", 50) if twice else ascent("apgd-margin", "margin", 50)
        untargeted = [ascent(name, dlr, 50)]
        if sparse:  # the nearest three leave up to 3 images of 100 more
            return [first, *(targeted(9, 50) or untargeted), search(200), proximal("last pdpgd")]
        if problem.threat.norm == "linf":
            brief = replace(first, arguments={**first.arguments, "steps": 30})
            few = targeted(3, 40, nearest=True, loss="margin-targeted", larger=[2.0]) or untargeted
            wide = [
                ascent("double apgd-margin", "margin", 50, larger=[2.0], restarts=3),
                ascent("double apgd-ce-sharp", "ce_sharp", larger=[2.0, 1.5]),
                ascent("wider apgd-margin", "margin", 50, larger=[1.5]),
                ascent("triple apgd-margin", "margin", 50, larger=[3.0]),
            ]
            return [brief, *few, *wide, search(60)]
        few = targeted(3, 50, nearest=True) or untargeted
        return [first, proximal("pdpgd"), *few, search(100)]
    if version == "plus":
        both = [ascent("apgd-ce", "ce", restarts=5), ascent(name, dlr, restarts=5)]
        both += [boundary("fab", targeted=False, classes=None, restarts=5), search(5000, rescale=False)]
        return [*both, *targeted(9), boundary("fab-t", targeted=True)] if free else both
    first = ascent("apgd-ce", "ce", restarts=5 if sparse else 1)
    rest = targeted(5 if sparse else 9) or [ascent(name, dlr)]
    return [first, *rest, boundary("fab-t" if free else "fab", targeted=free), search(5000, rescale=False)]


def aims(run: Run) -> bool:
    """Return whether losses can lead to a class of choice: the criterion's margin depends on the class."""
    problem, clean = run.trial.problem, run.trial.clean
    y, margin = problem.y, problem.criterion.margin
    if problem.targets is not None:
        return False
    return run.plain or not torch.equal(*(margin(clean, y, (y + i) % clean.shape[1]) for i in (1, 2)))


def ascent(name: str, loss: str, steps: int = 100, **arguments: Any) -> Component:
    """Return APGD on a loss."""
    return Component(name, "apgd", {"loss": loss, "steps": steps, **arguments})


def boundary(name: str, **arguments: Any) -> Component:
    """Return FAB."""
    return Component(name, "fab", {"steps": 100, **arguments})


def search(queries: int, **arguments: Any) -> Component:
    """Return Square."""
    return Component("square", "square", {"queries": queries, **arguments})


def proximal(name: str) -> Component:
    """Return PDPGD."""
    return Component(name, "pdpgd", {"steps": PROXIMAL})


def _named(parts: Sequence[str], known: dict[str, Component]) -> list[Component]:
    """Return the components that a list names, of those that this norm, targets and criterion have."""
    for part in parts:
        if part not in known:
            raise InputError(
                f"version: expected one of {', '.join(sorted(known))} for this norm, criterion and targets, "
                f"got {part!r}"
            )
    return [known[part] for part in parts]


def stages(run: Run) -> list[Component]:
    """Return what "strong" adds, in its order: nothing that depends on how other samples fared."""
    classes, free = run.trial.clean.shape[1] - 1, aims(run)
    norm, dlr = run.trial.problem.threat.norm, "dlr" if run.plain else "margin"
    plan, sparse = [], norm == "l1"
    if norm != "linf":
        # attacks that minimize the norm break samples there that no ascent in the ball does
        plan.append(proximal("pdpgd"))
    plan += [
        ascent("restarts apgd-margin", "margin", restarts=RESTARTS, larger=None if sparse else [2.0]),
        ascent("restarts apgd-ce-sharp", "ce_sharp", restarts=RESTARTS),
    ]
    if free:
        few = classes <= ALL
        count = classes if few else NEAREST
        plan.append(ascent("targets apgd-t", f"{dlr}-targeted", classes=count, nearest=not few, restarts=2))
    return [*plan, replace(search(5000), name="restarts square")]
