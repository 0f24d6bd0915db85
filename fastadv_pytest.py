"""`pytest --attack module:function`: what fastadv promises of an attack, a test for each promise and norm."""

import sys
from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--attack", action="append", default=[], metavar="MODULE:FUNCTION",
        help="check the promises of fastadv over this attack, or over a registered one by its name",
    )  # fmt: skip


class Promise(pytest.Item):
    """One promise of an attack, in one norm."""

    tried: Any
    check: Callable[[Any], None]

    def runtest(self) -> None:
        self.check(self.tried)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, AssertionError):
            return f"{self.check.__doc__}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    for attack in config.getoption("--attack"):
        from fastadv.attacks.contract import checks  # torch loads only where it is asked for
        from fastadv.errors import InputError

        if (here := str(config.invocation_params.dir)) not in sys.path:
            sys.path.insert(0, here)  # as the commands do
        try:
            promises = [*checks(attack)]
        except InputError as error:
            raise pytest.UsageError(str(error)) from error
        for name, tried, check in promises:
            item: Promise = Promise.from_parent(session, name=f"{attack}-{name}")
            item.tried, item.check = tried, check
            items.append(item)
