"""A test that asks for `attack` (and `norm`) runs over the whole registry: no attack can escape it."""

import pytest

from fastadv.attacks import ATTACKS

from .nets import Case

CASES = [Case(name, entry) for name, entry in ATTACKS.items()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    if "attack" in names and "norm" in names:
        pairs = [(case, norm) for case in CASES for norm in case.entry.norms]
        metafunc.parametrize(("attack", "norm"), pairs, ids=[f"{case.name}-{norm}" for case, norm in pairs])
    elif "attack" in names:
        metafunc.parametrize("attack", CASES, ids=[case.name for case in CASES])
