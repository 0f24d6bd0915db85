"""What an attack's registry entry says of it."""

from typing import Any, Unpack

import pytest

from fastadv.attacks import ATTACKS, core
from fastadv.attacks.core.card import REGISTRY

from ..contract.toy import USE, tutorial


@pytest.mark.parametrize("name", REGISTRY)
def test_an_entry_describes_its_function(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.name == name
    assert all(f"\n    {option}: " in str(entry.run.__doc__) for option in entry.parameters)
    assert all(entry.takes(option) for option in ("targets", *entry.quick))
    assert not entry.takes("radius")


@pytest.mark.slow
def test_the_tutorial_on_an_attack_of_ones_own_ends_in_success() -> None:
    """The contract runs over its two attacks."""
    exec(USE, tutorial())


def test_the_entries_are_in_alphabetical_order() -> None:
    assert list(ATTACKS) == sorted(ATTACKS)


def test_what_an_attack_says_of_its_arguments_is_shown_whole() -> None:
    @core.takes_common
    def attack(model: Any, x: Any, *, power: int, **common: Unpack[core.Common]) -> None:
        """Do something.

        Args:
            power: of the step,
                in two lines.

        Raises:
            ValueError: it cannot.

        Source:
            A paper.
        """

    shown = str(attack.__doc__)
    assert shown.startswith("Do something.\n\nArgs:\n    model: classifier or Frozen;")
    assert "\n    power: of the step,\n        in two lines.\n    targets: " in shown
    assert "\n    ids: int [B], sample numbers" in shown
    assert "\n\nReturns:\n    An `AttackResult`" in shown
    assert shown.endswith("\n\nRaises:\n    ValueError: it cannot.\n\nSource:\n    A paper.")
