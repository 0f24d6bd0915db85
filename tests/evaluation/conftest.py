"""What tests of figures share."""

import pytest
from matplotlib.figure import Figure

from fastadv.evaluation.figures import style


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, in place of files."""
    made: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, path: made.append(figure))
    return made
