"""What an attack's registry entry says of it."""

import pytest

from fastadv.attacks import ABS_ATTACKS, ATTACKS


@pytest.mark.parametrize("name", [*ATTACKS, *ABS_ATTACKS])
def test_an_entry_describes_its_function(name: str) -> None:
    entry = {**ATTACKS, **ABS_ATTACKS}[name]
    assert entry.name == name
    assert entry.summary
    assert str(entry.run.__doc__).startswith(entry.summary)
    assert all(entry.takes(option) for option in ("targets", *entry.quick))
    assert not entry.takes("radius")


def test_some_attacks_take_steps_and_some_look_for_the_nearest() -> None:
    assert [name for name, entry in ATTACKS.items() if not entry.takes("steps")] == ["fgsm"]
    assert [name for name, entry in {**ATTACKS, **ABS_ATTACKS}.items() if entry.minimal] == ["latent_descent"]
