"""The nets of the zoo, by theme. Importing this registers those written here."""

from . import (  # noqa: F401
    attention,
    convolutions,
    gradients,
    layouts,
    modes,
    norms,
    parametrized,
    published,
    randomized,
    statistics,
    wrapped,
)
