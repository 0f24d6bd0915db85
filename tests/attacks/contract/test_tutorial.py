"""The page on writing an attack does what it says; the contract runs over its two attacks."""

import pytest

from .toy import USE, tutorial


@pytest.mark.slow
def test_the_tutorial_ends_in_success() -> None:
    exec(USE, tutorial())
