"""Our attacks made weaker on purpose: which of these does `fastadv conformance` notice?

    python -m tests.evaluation.weakened [--samples N] [NAME ...]

prints for each weakening the comparisons in which ours is then weaker beyond chance.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import fastadv as fa
from fastadv.attacks import AttackResult
from fastadv.attacks.core import Search
from fastadv.attacks.methods import auto_pgd
from fastadv.evaluation.conformance import conformance
from fastadv.studies import conformance as study

module = sys.modules[conformance.__module__]  # the package has the function by that name
Attack = Callable[..., AttackResult]


@dataclass(frozen=True)
class Weakening:
    """An attack, and what is made of it; `inside` changes the library itself meanwhile."""

    attack: str
    make: Callable[[Attack], Attack] = lambda attack: attack
    inside: Callable[[], Any] | None = None


def given(**options: Any) -> Callable[[Attack], Attack]:
    """The attack with other arguments."""
    return lambda attack: partial(attack, **options)


def shorter(attack: Attack) -> Attack:
    """A step of a fiftieth."""
    return partial(attack, step_size=attack.keywords["step_size"] / 50)  # type: ignore[attr-defined]


def tighter(attack: Attack) -> Attack:
    """The points stay in 0.9 of the radius."""

    def call(model: Any, x: Tensor, y: Tensor, threat: Any, **more: Any) -> AttackResult:
        return attack(model, x, y, type(threat)(0.9 * threat.radius), **more)

    return call


def away(attack: Attack) -> Attack:
    """The loss of a targeted attack has the wrong sign: it goes away from the target."""

    def call(model: Any, x: Tensor, y: Tensor, threat: Any, targets: Tensor, **more: Any) -> AttackResult:
        out = attack(model, x, targets, threat, stop_early=False, **more)
        reached = fa.freeze(model).verdict(out.x_adv).argmax(1) == targets
        return replace(out, success=reached)

    return call


@contextmanager
def last_wins() -> Iterator[None]:
    """The last point is kept, not the strongest, unless a success was met."""
    turns = count()

    def strength(search: Any, look: Any, loss: Any) -> Tensor:
        return torch.full(look.logits.shape[:-1], float(next(turns)))

    with patch.multiple(Search, _strength=strength, _is_plain=lambda search, loss: False):
        yield


WEAKENINGS: dict[str, Weakening] = {
    "2 steps of 40": Weakening("apgd", given(steps=2)),
    "half of the steps": Weakening("apgd", given(steps=20)),
    "step size / 50": Weakening("pgd", shorter),
    "no random start": Weakening("pgd", given(random_start=False)),
    "projected on 0.9 of the radius": Weakening("pgd", tighter),
    "1 restart of 10": Weakening("pgd-restarts", given(restarts=1)),
    "1 restart of 10 (APGD)": Weakening("apgd-restarts", given(restarts=1)),
    "no best iterate": Weakening("pgd", inside=last_wins),
    "no best iterate (APGD)": Weakening("apgd", inside=last_wins),
    "sign of the targeted loss": Weakening("pgd-targeted", away),
    "no momentum": Weakening("apgd", inside=lambda: patch.object(auto_pgd, "MOMENTUM", 1.0)),
    "no momentum (MIM)": Weakening("mim", given(decay=0.0)),
    "no overshoot": Weakening("deepfool", given(overshoot=0.0)),
    "1 search of 5": Weakening("cw", given(searches=1)),
    "10 steps of 100": Weakening("ddn", given(steps=10)),
    "a tenth of the queries": Weakening("square", given(queries=30)),
}


@contextmanager
def weakened(weakening: Weakening) -> Iterator[None]:
    """Have `conformance` compare the weak attack."""

    def cases() -> Iterator[Any]:
        for case in known():
            if case.name == weakening.attack:
                yield replace(case, ours=lambda radius, case=case: weakening.make(case.ours(radius)))

    known = module.cases
    with patch.object(module, "cases", cases):
        if weakening.inside is None:
            yield
        else:
            with weakening.inside():
                yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(WEAKENINGS)}; all by default")
    parser.add_argument("--samples", type=int, default=study.SAMPLES)
    parser.add_argument("--comparisons", type=int, default=250, help="of the whole wall")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    subjects, x, y = study.problem(options.samples)
    for name in options.names or WEAKENINGS:
        weakening = WEAKENINGS[name]
        with weakened(weakening):
            told = conformance(subjects, x, y)
        noticed = [one for one in told.comparisons if one.weaker(options.comparisons)]
        print(f"{name}: {weakening.attack}, noticed in {len(noticed)} of {len(told.comparisons)}", flush=True)
        for one in sorted(told.comparisons, key=lambda one: one.p)[:4]:
            sides = f"{len(one.only_ours)} : {len(one.only_theirs)}"
            print(f"    {one.net} {one.norm} {one.theirs.attack}: {sides}, p = {one.p:.2g}")
        for text in told.failed.items():
            print("    failed", *text)


if __name__ == "__main__":
    main()
