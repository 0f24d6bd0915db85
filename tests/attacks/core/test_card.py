"""What an attack's registry entry says of it."""

import pytest

from fastadv.attacks import ABS_ATTACKS, ATTACKS, SUBSTITUTE_ATTACKS


@pytest.mark.parametrize("name", [*ATTACKS, *ABS_ATTACKS, *SUBSTITUTE_ATTACKS])
def test_an_entry_describes_its_function(name: str) -> None:
    entry = {**ATTACKS, **ABS_ATTACKS, **SUBSTITUTE_ATTACKS}[name]
    assert entry.name == name
    assert entry.summary
    assert str(entry.run.__doc__).startswith(entry.summary)
    assert all(f"\n    {option}: " in str(entry.run.__doc__) for option in entry.parameters)
    assert all(entry.takes(option) for option in ("targets", *entry.quick))
    assert not entry.takes("radius")


def test_the_entries_are_in_alphabetical_order() -> None:
    assert list(ATTACKS) == sorted(ATTACKS)
