"""What an attack's registry entry says of it."""

import pytest

from fastadv.attacks.core.card import REGISTRY

from ..contract.toy import USE, tutorial


@pytest.mark.parametrize("name", REGISTRY)
def test_an_entry_describes_its_function(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.name == name
    assert all(entry.takes(option) for option in ("targets", *entry.quick))
    assert not entry.takes("radius")


@pytest.mark.slow
def test_the_tutorial_on_an_attack_of_ones_own_ends_in_success() -> None:
    """The contract runs over its attacks."""
    exec(USE, tutorial())
