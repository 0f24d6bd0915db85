"""The page on writing an attack does what it says; the contract runs over its two attacks."""

from .toy import USE, tutorial


def test_the_tutorial_ends_in_success() -> None:
    exec(USE, tutorial())
