"""A test that asks for `attack` runs over those with a projected ascent; with `norm`, each in another."""

import pytest

from fastadv.attacks import ATTACKS

from .nets import Case

ASCENTS = [Case(name, ATTACKS[name]) for name in ("fgsm", "bim", "pgd", "mim")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    if "attack" in names and "norm" in names:
        pairs = [(case, case.entry.norms[place]) for place, case in enumerate(ASCENTS)]
        metafunc.parametrize(("attack", "norm"), pairs, ids=[f"{case.name}-{norm}" for case, norm in pairs])
    elif "attack" in names:
        metafunc.parametrize("attack", ASCENTS, ids=[case.name for case in ASCENTS])
