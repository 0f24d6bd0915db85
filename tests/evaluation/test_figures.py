"""Figures: what is drawn, and files of the kind asked for, whole or absent, without pyplot's global state."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastadv.errors import InputError
from fastadv.evaluation import figures
from fastadv.evaluation.figures import images, style
from fastadv.evaluation.figures.style import INK

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([2, 0, 3, 1])
HEADINGS = ("strips", "of four")
LINE = (np.linspace(0, 1, 5), np.linspace(0.9, 0.1, 5))


def key(figure: Figure) -> list[str]:
    """What the legend names."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *(t for axes in figure.axes for t in axes.texts))]


@pytest.mark.slow
def test_files_of_each_kind_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    figures.curves({"a": LINE}, tmp_path / "a.pdf")
    figures.panels([figures.Panel("L2 distance", 1.0, {"a": LINE})], tmp_path / "b.svg")
    x = torch.full((2, 1, 8, 8), 0.5)
    brighter = x + 0.05 * (torch.arange(8) < 4)[:, None]
    figures.examples(x, brighter, Y[:2], Y[:2] + 1, tmp_path / "c.png", classes=list("abcd"), title="one")
    starts = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    assert starts == {"a.pdf": b"%PDF", "b.svg": b"<?xm", "c.png": b"\x89PNG"}
    picture = imread(tmp_path / "c.png")[..., :3]
    for color, what in ((to_rgb("0.5"), "the gray images"), (to_rgb(figures.VERMILION), "the difference")):
        assert (np.abs(picture - np.array(color)).max(-1) < 0.01).mean() > 0.02, f"{what} are not there"


def test_examples_hold_each_image_in_its_place_with_its_caption(drawn):
    low, high = -1.0, 3.0
    x = low + (high - low) * X
    x_adv = (x + 0.032 * torch.tensor([1.0, -1.0, 0.5, 0.0]).view(4, 1, 1, 1)).clamp(low, high)
    seen = torch.tensor([2, 1, 0, 1])
    figures.examples(x, x_adv, Y, seen, "a.png", classes=["zero", "one", "two", "three"], box=(low, high))
    (figure,) = drawn
    (sheet,) = figure.axes
    pixels = [np.asarray(image.get_array()) for image in sheet.images]
    assert len(pixels) == len(sheet.patches) == 12
    for image, frame in zip(sheet.images, sheet.patches, strict=True):
        left, right, bottom, top = image.get_extent()
        assert frame.get_bbox().extents == pytest.approx((left, top, right, bottom))
    scaled = ((x_adv - low) / (high - low)).double()
    for i in range(4):
        assert pixels[i] == pytest.approx(X[i, 0].numpy(), abs=1e-6)
        assert pixels[4 + i] == pytest.approx(scaled[i, 0].numpy(), abs=1e-6)
        assert pixels[8 + i] == pytest.approx(pixels[4 + i] - pixels[i], abs=1e-6)
    captions = sheet.texts
    for image, text in zip(sheet.images[:8], captions, strict=True):
        left, right, bottom, _ = image.get_extent()
        assert text.get_position() == pytest.approx(((left + right) / 2, bottom + 0.035))
    assert [text.get_text() for text in captions] == [
        *("two", "zero", "three", "one"),
        *("two", "one", "zero", "one"),
    ]
    colors = [text.get_color() for text in captions]
    assert colors == [INK] * 5 + [figures.VERMILION] * 2 + [INK]
    figures.examples(X, X, Y, Y, "a.png")
    assert "difference × 1" in texts(drawn[1])
    # the largest difference is 0.008 of the box: drawn 100 times as strong it does not saturate
    assert "difference × 100" in texts(figure)
    assert sheet.images[8].get_clim() == pytest.approx((-0.01, 0.01))


def test_strips_of_different_lengths_share_one_amplification(drawn):
    rows = [
        figures.Strip("first", X, list("abcd"), torch.tensor([False, True, False, False]), figures.BLUE),
        figures.Strip("faint", 0.02 * X[:2], difference=True, remark="below it"),
        figures.Strip("strong", -0.095 * X[:3] / X[:3].max(), difference=True),
    ]
    figures.strips(rows, "a.png", title="a title", subtitle="a subtitle")
    (figure,) = drawn
    (sheet,) = figure.axes
    assert len(sheet.images) == 9
    assert {"a title", "a subtitle", "first", "below it", "faint × 10", "strong × 10"} <= set(texts(figure))
    assert [text.get_color() for text in sheet.texts] == [INK, figures.BLUE, INK, INK]
    # rows stand below each other, columns beside each other, nothing overlaps
    boxes = [image.get_window_extent() for image in sheet.images]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes[:4]))
    assert boxes[0].y0 > boxes[4].y1 > boxes[4].y0 > boxes[6].y1 > 0
    assert boxes[3].x1 <= figure.bbox.x1


def test_a_difference_in_color_is_drawn_around_mid_gray(drawn):
    difference = torch.zeros(1, 3, 4, 4)
    difference[0, 0, 0, 0], difference[0, 2, 1, 1] = 0.1, -0.05
    figures.strips([figures.Strip("d", difference, difference=True)], "a.png")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert shown[0, 0] == pytest.approx([1.0, 0.5, 0.5])
    assert shown[1, 1] == pytest.approx([0.5, 0.5, 0.25])
    assert "d × 5" in texts(drawn[0])


@pytest.mark.parametrize(
    ("value", "gain"),
    [(1 / 0.3, 3), (5.0, 5), (15.9, 15), (1.0, 1), (0.4, 1), (9.9, 8), (10.0, 10)],
)
def test_amplification_is_a_round_number_that_does_not_saturate(value, gain):
    assert images.round_down(value) == pytest.approx(gain)


def test_labels_at_the_ends_do_not_overlap():
    placed = style.spread([0.0, 0.001, 0.002, 0.8], 0.06)
    assert placed == sorted(placed)
    assert placed[0] >= 0
    assert np.diff(placed).min() > 0.059
    assert placed[3] == pytest.approx(0.8)
    assert style.spread([0.5, 0.1], 0.06) == [0.5, 0.1]


def test_curves_draw_the_points_they_are_given(drawn):
    second = ([0, 0.5, 2], [1, 0.4, 0.3])
    figures.curves({"a": LINE, "b": second}, "c.png", radius="L2 radius", title="two", chance=0.25)
    (axes,) = drawn[0].axes
    lines = axes.lines[:2]
    for line, (across, up) in zip(lines, (LINE, second), strict=True):
        assert line.get_xdata() == pytest.approx(np.asarray(across))
        assert line.get_ydata() == pytest.approx(np.asarray(up))
    assert axes.lines[2].get_ydata() == pytest.approx([0.25, 0.25])
    names = {text.get_text(): text for text in axes.texts}
    assert {"a", "b", "guessing", "accuracy"} == names.keys()
    assert [names["a"].get_color(), names["b"].get_color()] == [line.get_color() for line in lines]
    assert names["a"].xy[1] < names["b"].xy[1]
    assert axes.get_xlabel() == "L2 radius"
    assert axes.get_xlim() == (0, 2)
    assert axes.get_ylim() == (0, 1)
    assert [text.get_text() for text in drawn[0].texts] == ["two"]


@pytest.mark.parametrize("steps", [False, True])
def test_a_band_lies_between_its_curves(drawn, steps):
    certified, attacked = ([0, 0.5, 1.0], [0.9, 0.5, 0.1]), ([0, 0.8, 2.0], [0.9, 0.7, 0.3])
    figures.curves(
        {"a": attacked, "b": LINE}, "c.png", steps=steps, bands={"a": (certified, attacked)}, right=1.5
    )
    (axes,) = drawn[0].axes
    (band,) = axes.collections
    assert to_hex(band.get_facecolor()[0]) == axes.lines[0].get_color().lower()
    outline = band.get_paths()[0]
    inside = {
        (0.25, 0.8): not steps,
        (0.25, 0.95): False,
        (0.6, 0.6): True,
        (0.6, 0.35): False,
        (1.9, 0.2): True,
    }
    # a step function keeps its value until the next radius
    inside |= {(0.4, 0.65): not steps, (0.75, 0.85): steps, (1.9, 0.5): steps}
    for point, expected in inside.items():
        assert outline.contains_point(point) is expected, point
    assert axes.lines[0].get_drawstyle() == ("steps-post" if steps else "default")
    assert axes.get_xlim() == (0, 1.5)


def test_step_functions_go_on_to_the_right_and_are_named_at_their_height_there(drawn):
    lines = {"held": ([0, 1], [0.9, 0.8]), "low": ([0, 1, 2], [0.9, 0.5, 0]), "high": ([0, 3], [0.6, 0])}
    figures.curves(lines, "c.png", steps=True, bands={"held": (lines["low"], lines["held"])}, right=4.0)
    (axes,) = drawn[0].axes
    held, low, _ = (line.get_xydata().tolist() for line in axes.lines)
    assert held == [[0, 0.9], [1, 0.8], [4, 0.8]]
    assert low == [[0, 0.9], [1, 0.5], [2, 0]]
    assert axes.collections[0].get_paths()[0].contains_point((3.5, 0.4))
    named = {text.get_text(): text.xy[1] for text in axes.texts if text.get_text() in lines}
    assert named["held"] == pytest.approx(0.8, abs=1e-3)
    assert named["high"] > named["low"] == pytest.approx(0, abs=1e-3)
    figures.curves(lines, "c.png", steps=True, right=0.5)
    named = {text.get_text(): text.xy[1] for text in drawn[1].axes[0].texts if text.get_text() in lines}
    assert named["high"] == pytest.approx(0.6, abs=1e-3)
    assert min(named["held"], named["low"]) > 0.8


def test_bars_have_the_lengths_they_are_given(drawn):
    nets = {"standard": {"clean": 0.98, "robust": 0.04}, "trained": {"clean": 0.9, "robust": 0.5}}
    paper = {"standard": {"clean": 0.95}, "trained": {"robust": 0.47}}
    figures.bars(nets, "b.png", title="nets", reference=paper, reference_name="a paper")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [0.98, 0.04, 0.9, 0.5]
    centers = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert centers == sorted(centers)
    # a net's name stands in the middle of its bars
    assert axes.get_yticks() == pytest.approx([sum(centers[:2]) / 2, sum(centers[2:]) / 2])
    assert len({to_hex(bar.get_facecolor()) for bar in axes.patches}) == 2
    ticks = [(line.get_xdata()[0], float(np.mean(line.get_ydata()))) for line in axes.lines]
    assert ticks == [(0.95, pytest.approx(centers[0])), (0.47, pytest.approx(centers[3]))]
    assert [text.get_text() for text in axes.texts] == ["98%", "4%", "90%", "50%"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["standard", "trained"]
    assert texts(drawn[0])[0] == "nets"
    assert key(drawn[0]) == ["clean", "robust", "a paper"]
    marks = drawn[0].legends[0].legend_handles
    assert [mark.get_marker() for mark in marks] == ["s", "s", "|"]
    assert [mark.get_color() for mark in marks[:2]] == [
        to_hex(bar.get_facecolor()).upper() for bar in axes.patches[:2]
    ]
    figures.bars({"one": {"paper": 0.5}}, "b.png", reference={"one": {"paper": 0.55}}, reference_name="paper")
    assert key(drawn[1]) == ["paper", "paper"]
    (number,) = drawn[1].axes[0].texts
    assert number.get_position()[0] < 0.5  # in the bar: beyond a tick it would be read as the tick's
    assert number.get_ha() == "right"
    figures.bars({"one\nand more": {"clean": 0.5}}, "b.png", subtitle="two\nlines", chance=0.1)
    assert drawn[2].axes[0].lines[0].get_xdata() == [0.1, 0.1]
    assert key(drawn[2]) == ["clean", "guessing"]
    assert texts(drawn[2])[0] == "two\nlines"


def test_panels_share_the_color_of_a_name_and_references_are_dashed(drawn):
    one, two = {"a": ([0, 1, 2], [1.0, 0.5, 0.0]), "b": ([0, 3], [0.9, 0.1])}, {"b": ([0, 0.3], [0.8, 0.2])}
    known = {"b": ([0, 2], [1.0, 0.3])}
    parts = [figures.Panel("L2 distance", 5.0, one, known, mark=1.5), figures.Panel("L∞ distance", 0.5, two)]
    figures.panels(
        parts, "x.png", title="Accuracy", drawn="here", reference="published", mark="the threshold"
    )
    first, second = drawn[0].axes
    mark, reference, a, b = first.lines
    assert list(mark.get_xdata()) == [1.5, 1.5]
    assert [line.get_linestyle() for line in (reference, a, b, *second.lines)] == ["--", "-", "-", "-"]
    for line, (across, up) in zip(
        (reference, a, b, *second.lines), (known["b"], *one.values(), two["b"]), strict=True
    ):
        assert (list(line.get_xdata()), list(line.get_ydata())) == (across, up)
    assert reference.get_color() == b.get_color() == second.lines[0].get_color() != a.get_color()
    assert (first.get_xlim(), second.get_xlim()) == ((0, 5.0), (0, 0.5))
    assert (first.get_xlabel(), second.get_xlabel()) == ("L2 distance", "L∞ distance")
    assert [bool("".join(t.get_text() for t in a.get_yticklabels())) for a in (first, second)] == [
        True,
        False,
    ]
    assert texts(drawn[0]) == ["Accuracy"]
    assert key(drawn[0]) == ["a", "b", "here", "published", "the threshold"]
    lines = drawn[0].legends[1].legend_handles
    assert [line.get_linestyle() for line in lines] == ["-", "--", ":"]
    assert (first.get_ylabel(), second.get_ylabel()) == ("accuracy", "")
    figures.panels([figures.Panel("L2", 2.0, {f"net {k}": LINE for k in range(6)})], "x.png")
    assert len({line.get_color() for line in drawn[1].axes[0].lines}) == 6


def test_errors_are_named_and_leave_no_file(tmp_path):
    path = tmp_path / "a.png"
    for wrong in (
        lambda: figures.examples(X, X[:2], Y, Y, path),
        lambda: figures.examples(X[0], X[0], Y, Y, path),
        lambda: figures.examples(X, X, Y[:1], Y, path),
        lambda: figures.examples(X, X, Y, Y[:1], path),
        lambda: figures.examples(X[:0], X[:0], Y[:0], Y[:0], path),
        lambda: figures.examples(X, X, Y, Y, tmp_path / "a.gif"),
        lambda: figures.strips([], path),
        lambda: figures.Strip("a", X, list("abc")),
        lambda: figures.Strip("a", X, list("abcd"), torch.tensor([True])),
        lambda: figures.Strip("a", X.expand(4, 2, 8, 8)),
        lambda: figures.curves({}, path),
        lambda: figures.curves({"a": ([0, 1], [1])}, path),
        lambda: figures.curves({"a": LINE}, path, bands={"b": (LINE, LINE)}),
        lambda: figures.curves({"a": LINE}, path, bands={"a": (LINE, ([0, 1], [1]))}),
        lambda: figures.panels([], path),
        lambda: figures.panels([figures.Panel("L2", 1.0, {f"net {k}": LINE for k in range(7)})], path),
        lambda: figures.panels([figures.Panel("L2", 1.0, {"a": ([0, 1], [1.0])})], path),
        lambda: figures.bars({}, path),
        lambda: figures.bars({"a": {"clean": 1.0}, "b": {"robust": 0.0}}, path),
        lambda: figures.curves({"a": LINE}, tmp_path / "a.gif"),
    ):
        with pytest.raises(InputError, match="expected"):
            wrong()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_lies_on_the_page_and_no_words_on_others(drawn):
    nets = {"standard": {"clean": 0.98, "robust": 0.04}, "trained": {"clean": 0.9, "robust": 0.5}}
    figures.bars(nets, "b.png", title="nets", reference={"trained": {"robust": 0.47}}, reference_name="paper")
    figures.curves({"net": LINE, "other": (LINE[0], LINE[1] / 2)}, "a.png", title="curves")
    figures.panels(
        [figures.Panel("L2", 1.0, {"net": LINE, "other": LINE})], "a.png", title="panels", drawn="here"
    )
    figures.examples(X, X + 0.1, Y, Y, "a.png", title="an attack")
    rows = [figures.Strip("first", X), figures.Strip("apart", 0.1 * X, difference=True)]
    figures.strips(rows, "a.png", title="strips", subtitle="of four")
    figures.strips(rows, "a.png", subtitle="of four")
    figures.strips([figures.Strip("", 0.1 * X, difference=True)], "a.png")
    for figure in drawn:
        (canvas := FigureCanvasAgg(figure)).draw()
        renderer = canvas.get_renderer()
        words = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        words += [text for legend in figure.legends for text in legend.get_texts()]
        words += [
            text for axes in figure.axes for text in axes.get_yticklabels() if not len(axes.get_xticks())
        ]
        words = [text for text in words if text.get_text().strip()]
        boxes = [text.get_window_extent(renderer) for text in words]
        page = figure.bbox.padded(1)
        for box in (*boxes, *(axes.bbox for axes in figure.axes)):
            assert all(page.contains(x, y) for x, y in box.corners()), box
        headings = [box.x0 for box, text in zip(boxes, words, strict=True) if text.get_text() in HEADINGS]
        assert headings == pytest.approx(headings[:1] * len(headings), abs=2)
        for i, one in enumerate(boxes):
            assert not any(one.overlaps(other) for other in boxes[:i])
