"""A test that asks for `case` and `norm` runs over every attack of the registry, and three toys.

With the marker `only` it runs over those whose cards fit. Each runs in one norm, which differs between
attacks and tests, and with `all_norms` in all of its norms; attacks that are made of others, and published
variants, run in one norm there, too. A test that asks for `number` runs each of the registry in every row
of options.
"""

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from fastadv.attacks import ATTACKS, AttackResult
from fastadv.attacks.autoattack import ATTACKS as COMPONENTS

from ..nets import Case
from .cases import CASES, OURS, PUBLISHED, norm_of
from .rows import ROWS

# steps of AutoAttack's components: a tenth of the usual ones find what there is in nets this small
FEW = {"apgd": {"steps": 3}, "fab": {"steps": 3}, "pdpgd": {"steps": 10}, "square": {"queries": 10}}
# settings with which a quick run of minimum_norm goes through all of its searches
BRIEF = {"FIRST": 1, "STEPS": 2, "PROJECTIONS": 1, "TURNS": 1}

# attacks of many passes, whose short runs take a thirtieth of a second and more
SLOW = {"autoattack", "boundary", "cw", "ddn", "ead", "fab", "fmn", "hopskipjump", "lbfgs", "minimum_norm"}
SLOW |= {"minimum_radius", "pdgd", "pdpgd", "pointwise", "sigma_zero", "sparse_rs", "square", "superdeepfool"}
SLOW |= {f"{name} published" for name in PUBLISHED}

ONE_NORM = {"autoattack", "minimum_norm", "minimum_radius", *(f"{name} published" for name in PUBLISHED)}


@pytest.fixture(autouse=True)
def few_steps_of_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, FEW)
    for name, count in BRIEF.items():
        monkeypatch.setattr(sys.modules["fastadv.attacks.minimum_norm"], name, count)


def put(monkeypatch: pytest.MonkeyPatch, name: str, on: Callable[..., AttackResult]) -> None:
    """Let AutoAttack run its component of this name, on a task, by `on`."""
    attack = COMPONENTS[name]
    other = wraps(attack)(lambda *args, **options: attack(*args, **options))
    other.on = on  # type: ignore[attr-defined]
    monkeypatch.setitem(COMPONENTS, name, other)


def shorten(monkeypatch: pytest.MonkeyPatch, components: dict[str, dict[str, int]]) -> None:
    """Let these components of AutoAttack take so few steps."""

    def briefly(attack: Any, few: dict[str, int], task: Any, **options: Any) -> AttackResult:
        out: AttackResult = attack.on(task, **{**options, **few})
        return out

    for name, few in components.items():
        put(monkeypatch, name, partial(briefly, COMPONENTS[name], few))


def spied(
    monkeypatch: pytest.MonkeyPatch, *names: str
) -> list[tuple[tuple[Any, ...], dict[str, Any], AttackResult]]:
    """Of each call of these components of AutoAttack, the arguments, the options and the result."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], AttackResult]] = []

    def noted(attack: Any, *args: Any, **options: Any) -> AttackResult:
        calls.append((args, options, attack.on(*args, **options)))
        return calls[-1][2]

    for name in names:
        put(monkeypatch, name, partial(noted, COMPONENTS[name]))
    return calls


def fitting(takes: str = "", **facts: str) -> list[Case]:
    return [
        case
        for case in CASES
        if (not takes or case.takes(takes))
        and all(getattr(case.entry, name) == value for name, value in facts.items())
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names, test = metafunc.fixturenames, metafunc.function.__name__
    if "case" not in names or "norm" not in names:
        return
    only, every = map(metafunc.definition.get_closest_marker, ("only", "all_norms"))
    rows: list[tuple[Any, ...]] = [
        (case, norm)
        for case in (fitting(**only.kwargs) if only else CASES)
        for norm in (case.entry.norms if every and case.name not in ONE_NORM else (norm_of(case, test),))
    ]
    if "number" in names:  # one norm after the other, beginning elsewhere for each attack
        rows = [
            (case, case.entry.norms[(place + number) % len(case.entry.norms)], number)
            for number in range(len(ROWS))
            for place, case in enumerate(case for case in OURS if case.name in ATTACKS)
        ]
    metafunc.parametrize(
        ("case", "norm", "number")[: len(rows[0])],
        [
            pytest.param(
                case, *rest, id="-".join([case.name, *map(str, rest)]),
                marks=[pytest.mark.slow] if case.name in SLOW else [],
            )
            for case, *rest in rows
        ],
    )  # fmt: skip
