"""Which components the versions of AutoAttack have, and which ones lists may name."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from fastadv.attacks.auto.component import Component
from fastadv.attacks.auto.run import Run
from fastadv.errors import InputError

Version = Literal["standard", "plus", "rand", "quick", "strong"]
VERSIONS = ("standard", "plus", "rand", "quick", "strong")
NAMES = ("apgd-ce", "apgd-ce-sharp", "apgd-dlr", "apgd-margin", "apgd-t", "fab", "fab-t", "pdpgd", "square")
Parts = Sequence[str | Component]
PROXIMAL = 300  # steps of PDPGD


def check_version(version: Version | Parts) -> None:
    """Raise InputError unless it is a version, or a list of components whose names differ."""
    wanted = f"one of {', '.join(VERSIONS)}"
    listed = f"a list of fastadv.attacks.Component and of the names {', '.join(NAMES)}"
    if isinstance(version, str):
        if version not in VERSIONS:
            more = f'; for that component alone give ["{version}"]' if version in NAMES else ""
            raise InputError(f"version: expected {wanted}, got {version!r}{more}")
        return
    if not isinstance(version, Sequence) or not version:
        raise InputError(f"version: expected {wanted}, or {listed}, got {version!r}")
    for part in version:
        if not isinstance(part, Component) and part not in NAMES:
            raise InputError(f"version: expected {listed}, got {part!r} in it")
    names = [part.name if isinstance(part, Component) else part for part in version]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"version: expected components with different names, got {', '.join(twice)} more than once; "
            "fastadv.attacks.Component takes a name and restarts"
        )


def components(version: Version | Parts, run: Run) -> list[Component]:
    """Return the components of a version, for the norm, classes, targets and criterion of a run."""
    problem = run.trial.problem
    sparse, free = problem.threat.norm == "l1", aims(run)
    classes = run.trial.clean.shape[1] - 1
    dlr = "dlr" if run.plain else "margin"
    name = f"apgd-{dlr}"

    def targeted(count: int, steps: int = 100) -> list[Component]:
        count = min(count, classes)
        if free:
            return [ascent("apgd-t", f"{dlr}-targeted", steps, classes=count)]
        # no loss leads to another class: restarts of one attack, under their own name
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
    if version == "quick":
        twice = name == "apgd-margin" and not free
        first = ascent("apgd-ce-sharp", "ce_sharp", 50) if twice else ascent("apgd-margin", "margin", 50)
        linf = problem.threat.norm == "linf"
        last = ascent("last apgd-ce-sharp", "ce_sharp") if linf else proximal("last pdpgd")
        return [first, *(targeted(5, 50) or [ascent(name, dlr, 50)]), search(200), last]
    if version == "plus":
        both = [ascent("apgd-ce", "ce", restarts=5), ascent(name, dlr, restarts=5)]
        both += [boundary("fab", targeted=False, classes=None, restarts=5), search(5000, rescale=False)]
        return [*both, *targeted(9), boundary("fab-t", targeted=True)] if free else both
    first = ascent("apgd-ce", "ce", restarts=5 if sparse else 1)
    rest = targeted(5 if sparse else 9) or [ascent(name, dlr)]
    return [first, *rest, boundary("fab-t" if free else "fab", targeted=free), search(5000, rescale=False)]


def aims(run: Run) -> bool:
    """Return whether losses can lead to a class of choice: there are no targets, and the criterion's margin
    depends on the class, as that of OutsideTopK does not.
    """
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


def _named(parts: Parts, known: dict[str, Component]) -> list[Component]:
    """Return the components that a list names, of those that this norm, targets and criterion have."""
    for part in parts:
        if isinstance(part, str) and part not in known:
            raise InputError(
                f"version: expected one of {', '.join(sorted(known))} for this norm, criterion and targets, "
                f"got {part!r}"
            )
    return [known[part] if isinstance(part, str) else part for part in parts]
