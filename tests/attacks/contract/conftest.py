"""A test that asks for `case` (and `norm`) runs over every attack of the registry, and two toys."""

import pytest

from .cases import CASES


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = metafunc.fixturenames
    if "case" in names and "norm" in names:
        pairs = [(case, norm) for case in CASES for norm in case.entry.norms]
        metafunc.parametrize(("case", "norm"), pairs, ids=[f"{case.name}-{norm}" for case, norm in pairs])
    elif "case" in names:
        metafunc.parametrize("case", CASES, ids=[case.name for case in CASES])
