"""The pitfalls, like the contract, are tried with every attack of the registry for which they make sense."""

from ..contract.conftest import _few_steps_of_autoattack, pytest_generate_tests

__all__ = ["_few_steps_of_autoattack", "pytest_generate_tests"]
