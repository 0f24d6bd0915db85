"""Panels of accuracy against distance: what is drawn where, in which color, and what is refused."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastadv.errors import InputError
from fastadv.evaluation.figures import Panel, _panels, panels
from fastadv.evaluation.figures._panels import COLORS
from fastadv.evaluation.figures.style import GRID

ONE = {"a": ([0, 1, 2], [1.0, 0.5, 0.0]), "b": ([0, 3], [0.9, 0.1])}
TWO = {"b": ([0, 0.3], [0.8, 0.2])}
REFERENCE = {"b": ([0, 2], [1.0, 0.3])}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    monkeypatch.setattr(_panels, "save", lambda figure, path: found.append(figure))
    return found


def lines(axes: Axes) -> list[tuple[str, bool, list[float], list[float]]]:
    """(color, whether solid, distances, accuracy) of each curve."""
    return [
        (line.get_color(), line.get_linestyle() == "-", list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if len(line.get_xdata()) > 2 or line.get_xdata()[0] != line.get_xdata()[-1]
    ]


def test_lines_and_references_share_the_color_of_their_name(drawn: list[Figure]) -> None:
    parts = [Panel("L2 distance", 5.0, ONE, REFERENCE, 1.5), Panel("L∞ distance", 0.5, TWO)]
    panels(parts, "x.png", title="Accuracy", drawn="here", reference="published")
    first, second = drawn[0].axes
    reference, a, b = lines(first)
    assert reference[1:] == (False, [0, 2], [1.0, 0.3])
    assert a[1:] == (True, [0, 1, 2], [1.0, 0.5, 0.0])
    assert b[1:] == (True, [0, 3], [0.9, 0.1])
    assert reference[0] == b[0] != a[0]
    assert lines(second) == [(b[0], True, [0, 0.3], [0.8, 0.2])]
    assert first.get_xlim() == (0, 5.0)
    assert second.get_xlim() == (0, 0.5)
    assert (first.get_xlabel(), second.get_xlabel()) == ("L2 distance", "L∞ distance")
    marks = [line for line in first.lines if list(line.get_xdata()) == [1.5, 1.5]]
    assert len(marks) == 1
    assert len(second.lines) == 1
    told = [text.get_text() for text in drawn[0].texts]
    assert "Accuracy" in told
    assert "solid: here, dashed: published" in told
    assert {"a", "b"} <= set(told)


@pytest.mark.slow
def test_a_file_is_written(tmp_path: Path) -> None:
    panels([Panel("L2 distance", 5.0, ONE)], tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 to 6 names"):
        panels([], tmp_path / "p.png")
    many = {f"net {k}": ([0], [1]) for k in range(7)}
    with pytest.raises(InputError, match="got 7"):
        panels([Panel("L2 distance", 1.0, many)], tmp_path / "p.png")
    with pytest.raises(InputError, match=r"L2 distance, a: .* one length"):
        panels([Panel("L2 distance", 1.0, {"a": ([0, 1], [1.0])})], tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_as_many_names_as_there_are_colors_over_a_faint_grid(drawn: list[Figure]) -> None:
    panels([Panel("L2", 2.0, {f"net {k}": ([0, k], [1.0, 0.0]) for k in range(1, len(COLORS) + 1)})], "x.png")
    (axes,) = drawn[0].axes
    assert {color for color, *_ in lines(axes)} == set(COLORS)
    assert {line.get_color() for line in axes.get_ygridlines()} == {GRID}
