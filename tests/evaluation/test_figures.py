"""Figures: what is drawn, and files of the kind asked for, whole or absent, without pyplot's global state."""

import json
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

import fastadv as fa
from fastadv.data import ConstructedSet, ImageSet
from fastadv.demo import run as demo
from fastadv.errors import InputError
from fastadv.evaluation import figures
from fastadv.evaluation.figures import style, thumbnails
from fastadv.evaluation.figures.style import INK

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([2, 0, 3, 1])
LINE = (np.linspace(0, 1, 5), np.linspace(0.9, 0.1, 5))
POINTS = torch.tensor([[0.1, 0.2], [0.6, 0.9], [0.9, 0.1], [0.3, 0.7]])  # points of the plane
KINDS = torch.tensor([0, 1, 1, 0])


def plane(x):
    """Class 1 right of 0.5."""
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)


def attack(x=X, box=(0.0, 1.0)):
    """What an attack within 0.25 returned: it broke the first image, and the last was wrong before."""
    x_adv, status = x.clone(), torch.tensor([1, 2, 2, 0])
    x_adv[0, 0, :4] = (x[0, 0, :4] + 0.25).clamp(*box)
    return fa.attacks.AttackResult(
        x_adv, status < 2, status, torch.zeros(4), torch.zeros(4), 4, 4, torch.zeros(4).bool(),
        threat=fa.Linf(0.25, box),
    )  # fmt: skip


def key(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *(t for axes in figure.axes for t in axes.texts))]


def attacked(x, x_adv, known, seen):
    return [
        figures.Strip("clean", x, known.tolist()),
        figures.Strip("adversarial", x_adv, seen.tolist(), known != seen),
        figures.Strip("difference", x_adv - x, difference=True),
    ]


@pytest.mark.slow
def test_files_of_each_kind_without_pyplot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    figures.curves({"a": LINE}, tmp_path / "a.pdf")
    figures.curves({"a": LINE}, tmp_path / "b.svg")
    x = torch.full((2, 1, 8, 8), 0.5)
    brighter = x + 0.05 * (torch.arange(8) < 4)[:, None]
    figures.strips(attacked(x, brighter, Y[:2], Y[:2] + 1), path=tmp_path / "c.png", title="one")
    starts = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    assert starts == {"a.pdf": b"%PDF", "b.svg": b"<?xm", "c.png": b"\x89PNG"}
    picture = imread(tmp_path / "c.png")[..., :3]
    for color, what in ((to_rgb("0.5"), "the gray images"), (to_rgb(figures.VERMILION), "the difference")):
        assert (np.abs(picture - np.array(color)).max(-1) < 0.01).mean() > 0.02, f"{what} are not there"


def test_strips_hold_each_image_in_its_place_with_its_caption(drawn):
    x_adv = (X + 0.008 * torch.tensor([1.0, -1.0, 0.5, 0.0]).view(4, 1, 1, 1)).clamp(0, 1)
    figures.strips(attacked(X, x_adv, Y, torch.tensor([2, 1, 0, 1])), path="a.png")
    (figure,) = drawn
    (sheet,) = figure.axes
    pixels = [np.asarray(image.get_array()) for image in sheet.images]
    assert len(pixels) == len(sheet.patches) == 12
    for i in range(4):
        assert pixels[i] == pytest.approx(X[i, 0].numpy(), abs=1e-6)
        assert pixels[4 + i] == pytest.approx(x_adv[i, 0].numpy(), abs=1e-6)
        assert pixels[8 + i] == pytest.approx(pixels[4 + i] - pixels[i], abs=1e-6)
    captions = sheet.texts
    assert [text.get_text() for text in captions] == list("20312101")
    assert [text.get_color() for text in captions] == [INK] * 5 + [figures.VERMILION] * 2 + [INK]
    # the largest difference is 0.008: drawn 100 times as strong it does not saturate
    assert "difference × 100" in texts(figure)
    assert sheet.images[8].get_clim() == pytest.approx((-0.01, 0.01))
    figures.strips(attacked(X, X, Y, Y), path="a.png")
    assert "difference × 1" in texts(drawn[1])


@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (-torch.inf, torch.inf)])
def test_tensors_and_results_become_the_strips_that_one_would_write(box):
    x = X if box[0] == 0 else 2 * X - 1
    out = attack(x, box)
    both = torch.cat([x, out.x_adv])
    low, high = box if box[0] > -torch.inf else (float(both.min()), float(both.max()))
    assert out.success.tolist() == [True, False, False, True], "a broken one, two that hold, a wrong one"
    seen = torch.tensor([1, 1, 1, 1])
    for x_adv, y_adv, captions, orange in (
        (out.x_adv, (), [], []),
        (out, (), ["broken", "held", "held", "was wrong"], [True, False, False, False]),
        (out, seen, ["1"] * 4, [True, False, False, True]),
    ):
        figure = figures.strips(x, x_adv, y=KINDS, y_adv=y_adv, box=None if x_adv is out else box)
        (sheet,) = figure.axes
        pixels = [np.asarray(image.get_array()) for image in sheet.images]
        for i in range(4):
            clean, moved = ((part[i, 0] - low) / (high - low) for part in (x, out.x_adv))
            assert pixels[i] == pytest.approx(clean.numpy(), abs=1e-6)
            assert pixels[4 + i] == pytest.approx(moved.numpy(), abs=1e-6)
            assert pixels[8 + i] == pytest.approx((moved - clean).numpy(), abs=1e-6)
        assert [text.get_text() for text in sheet.texts] == ["0", "1", "1", "0", *captions]
        assert [text.get_color() == figures.VERMILION for text in sheet.texts[4:]] == orange
        assert ("L∞ 0.25" in texts(figure)) == (x_adv is out)
    alone = figures.strips(out, limit=3)
    assert len(alone.axes[0].images) == 3
    assert "the first 3 of 4 images" in texts(alone)
    assert figures.strips((X * 255).byte(), limit=1).axes[0].images[0].get_array().max() <= 1


def test_figures_are_returned_and_shown_in_a_notebook_without_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    figure = figures.curves({"a": LINE})
    assert isinstance(figure, Figure)
    assert imread(BytesIO(figure._repr_png_())).shape[1] > 400


def report(epoch, loss, clean, robust, **others):
    return fa.train.EpochReport(
        epoch, loss, clean, {} if robust is None else {"PGD": robust}, 0.1, 1.0, **others
    )


def test_a_training_is_drawn_by_epoch_from_reports_or_their_folder(tmp_path):
    held = {"validation_clean_accuracy": 0.5, "validation_robust_accuracy": {"PGD": 0.25}}
    past = [report(1, 2.0, 0.5, 0.25, **held), report(2, 1.5, None, None, tested=False)]
    past.append(report(3, 1.0, 0.75, 0.5, alarm="robust overfitting: it fell; stop"))
    (tmp_path / "report.jsonl").write_text("".join(json.dumps(vars(one)) + "\n" for one in past))
    for source in (past, tmp_path, str(tmp_path)):
        loss, accuracy = figures.training(source).axes
        assert np.asarray(loss.lines[0].get_data()).tolist() == [[1, 2, 3], [2, 1.5, 1]]
        drawn = {
            line.get_label(): (np.asarray(line.get_data()).tolist(), line.get_linestyle(), line.get_color())
            for line in accuracy.lines[:4]
        }
        assert drawn == {
            "clean": ([[1, 3], [0.5, 0.75]], "-", figures.BLUE),
            "PGD": ([[1, 3], [0.25, 0.5]], "-", figures.VERMILION),
            "clean, validation": ([[1], [0.5]], "--", figures.BLUE),
            "PGD, validation": ([[1], [0.25]], "--", figures.VERMILION),
        }
        assert accuracy.get_title(loc="right") == "robust overfitting"
        assert accuracy.lines[4].get_xdata()[0] == 3
    averaged = [replace(past[0], ema_clean_accuracy=0.9, ema_robust_accuracy={"PGD": 0.8})]
    _, accuracy = figures.training(averaged).axes
    assert [float(line.get_ydata()[0]) for line in accuracy.lines] == [0.9, 0.8]
    (only,) = figures.training([report(1, 2.0, None, None)]).axes
    assert only.get_title(loc="left") == "loss"


def test_a_boundary_runs_where_the_model_decides_and_points_lie_where_they_are():
    moved = POINTS + torch.tensor([0.1, 0.0])
    figure = figures.boundary(plane, POINTS, KINDS, moved)
    (axes,) = figure.axes
    fills = [one for one in axes.collections if one.get_alpha()]
    for fill, right in zip(fills, (False, True), strict=True):  # of class 0 and 1
        across = np.concatenate([path.vertices for path in fill.get_paths()])[:, 0]
        assert (across.min() > 0.49) if right else (across.max() < 0.51), "x = 0.5 is the boundary"
    spots = [np.asarray(one.get_offsets()) for one in axes.collections if len(one.get_offsets()) == 2]
    for spot, (points, k) in zip(spots, [(POINTS, 0), (moved, 0), (POINTS, 1), (moved, 1)], strict=True):
        assert spot == pytest.approx(points[k == KINDS].numpy(), abs=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "class 0",
        "class 1",
        "adversarial",
    ]
    joins = np.stack([line.get_xydata() for line in axes.lines])
    assert joins == pytest.approx(torch.stack([POINTS, moved], 1).numpy(), abs=1e-6)


def test_a_difference_in_color_is_drawn_around_mid_gray(drawn):
    difference = torch.zeros(1, 3, 4, 4)
    difference[0, 0, 0, 0], difference[0, 2, 1, 1] = 0.1, -0.05
    figures.strips([figures.Strip("d", difference, difference=True)], path="a.png")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert shown[0, 0] == pytest.approx([1.0, 0.5, 0.5])
    assert shown[1, 1] == pytest.approx([0.5, 0.5, 0.25])
    assert "d × 5" in texts(drawn[0])


def test_curves_draw_the_points_they_are_given(drawn):
    second = ([0, 0.5, 2], [1, 0.4, 0.3])
    figures.curves({"a": LINE, "b": second}, "c.png", radius="L2 radius", title="two", chance=0.25)
    (axes,) = drawn[0].axes
    lines = axes.lines[:2]
    for line, (across, up) in zip(lines, (LINE, second), strict=True):
        assert line.get_xdata() == pytest.approx(np.asarray(across))
        assert line.get_ydata() == pytest.approx(np.asarray(up))
    assert axes.lines[2].get_ydata() == pytest.approx([0.25, 0.25])
    names = {text.get_text(): text.get_color() for text in axes.get_legend().get_texts()}
    assert [*names] == ["b", "guessing", "a"], "the line that ends highest is named first"
    assert [names["a"], names["b"]] == [line.get_color() for line in lines]
    assert (axes.get_xlabel(), axes.get_xlim(), axes.get_ylim()) == ("L2 radius", (0, 2), (0, 1))
    assert [text.get_text() for text in drawn[0].texts] == ["two"]


def test_what_transfers_is_a_table_of_colors(drawn):
    counts = torch.tensor([[6, 4, 0], [1, 8, 0]]), torch.tensor([10, 8, 0]), torch.tensor([0, 0])
    table = fa.evaluation.Transferability(("a", "b"), ("c", "d", "none"), *counts, 10, "mim", counts[-1])
    figures.transferability(table, "t.png")
    (axes,) = drawn[0].axes
    names = (axes.get_yticklabels(), axes.get_xticklabels())
    assert [[text.get_text() for text in side] for side in names] == [["a", "b"], ["c", "d", "none"]]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert [cells[0.5, 0.4], cells[1.5, 1.4], cells[2.5, 0.4]] == ["60.0%", "100.0%", "-"]
    assert [cells[0.5, 0.72], cells[1.5, 1.72]] == ["26 to 88", "63 to 100"]
    (mesh,) = axes.collections
    assert np.ma.filled(mesh.get_array(), -1) == pytest.approx(np.array([[0.6, 0.5, -1], [0.1, 1, -1]]))
    assert (axes.yaxis_inverted(), mesh.get_clim()) == (True, (0, 1))  # the first source is at the top


def test_the_band_between_an_attack_and_certificates_is_filled(drawn):
    lines = {"certified": ([0, 2], [0.6, 0]), "attacked": ([0, 1, 2], [0.8, 0.8, 0.2])}
    figures.curves(lines, "c.png", between=("attacked", "certified"))
    (band,) = drawn[0].axes[0].collections
    corners = band.get_paths()[0].vertices
    for across, (low, high) in ((0, (0.6, 0.8)), (1, (0.3, 0.8)), (2, (0, 0.2))):
        heights = corners[np.isclose(corners[:, 0], across), 1]
        assert (heights.min(), heights.max()) == pytest.approx((low, high))
    with pytest.raises(InputError, match="between: expected two names among certified, attacked, got"):
        figures.curves(lines, "c.png", between=("attacked", "x"))


def test_bars_have_the_lengths_they_are_given_beside_the_papers(drawn):
    demo.bars({"standard": (0.98, 0.04), "D_R": (0.8, 0.5), "D_NR": (0.3, 0.2)}, "PGD", "digits", "b.png")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [0.98, 0.04, 0.8, 0.5, 0.3, 0.2]
    centers = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert centers == sorted(centers)
    guessing, *ticks = [(line.get_xdata()[0], float(np.mean(line.get_ydata()))) for line in axes.lines]
    assert guessing[0] == 0.1
    published = (0.9525, 0.0449, 0.841, 0.483, 0.877, 0.008)
    assert ticks == [(share, pytest.approx(up)) for share, up in zip(published, centers, strict=True)]
    assert [text.get_text() for text in axes.texts] == ["98%", "4%", "80%", "50%", "30%", "20%"]
    # beyond a mark that is near: between both a number would be read as the mark's
    places = [text.get_position()[0] for text in axes.texts]
    assert (places[1], places[2]) == pytest.approx((0.067, 0.863), abs=0.05)
    assert all(place > share for place, share in zip(places[1:3], (0.0449, 0.841), strict=True))
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["standard", "D_R\nrobust features kept", "D_NR\nnon-robust features kept"]
    assert key(drawn[0]) == ["clean", "PGD", "paper", "guessing"]
    below = "Bars: accuracy on digits, clean and under PGD.\nDiamonds: Ilyas et al."
    assert texts(drawn[0])[1].startswith(below)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    return figures


def base_set(classes: int, per_class: int, channels: int = 1) -> ImageSet:
    """The first pixel of an image tells its number."""
    count = classes * per_class
    x = torch.randint(256, (count, channels, 6, 6), dtype=torch.uint8)
    x[:, :, 0, 0] = torch.arange(count)[:, None] % 256
    return ImageSet(x, torch.arange(count) % classes, [f"n{k}" for k in range(classes)], "base")


def constructed(base: ImageSet, shift: int = 1) -> ConstructedSet:
    labels, ids = (base.y + shift) % base.num_classes, torch.arange(len(base))
    tensors = {"images": 255 - base.x, "labels": labels, "ids": ids, "original_labels": base.y}
    return ConstructedSet(tensors, {"config": {"classes": base.classes, "name": "negatives", "note": ""}})


@pytest.mark.parametrize("shift", [0, 1])
def test_sources_stand_above_what_was_made_of_them(drawn, shift):
    base = base_set(3, 4)
    thumbnails(constructed(base, shift), base, "a.png", per_class=2)
    images, texts = drawn[0].axes[0].images, drawn[0].axes[0].texts
    assert len(images) == 2 * 2 * 3
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        turn, below, k = place // 6, place // 3 % 2, place % 3
        pixels = base.x[3 * turn + k, 0].numpy() / 255
        assert np.asarray(image.get_array()) == pytest.approx(1 - pixels if below else pixels, abs=1e-6)
        assert text.get_text() == f"n{(k + shift * below) % 3}"
        assert (to_hex(text.get_color()).upper() == figures.VERMILION) == bool(shift and below)
    boxes = [image.get_window_extent() for image in images]
    top, left = [box.y0 for box in boxes], [box.x0 for box in boxes]
    assert top[0] == top[1] == top[2] > top[3] > top[6] > top[9]
    assert left[:3] == left[3:6] == left[6:9]


def test_errors_are_named_and_leave_no_file(tmp_path):
    path, base, two = tmp_path / "a.png", base_set(3, 2), base_set(3, 2, channels=2)
    for wrong, says in (
        (lambda: figures.strips([], path=path), "x"),
        (lambda: figures.strips([X, X], path=path), "x"),
        (lambda: figures.strips(X, "a.png"), "x_adv: .*got str; path="),
        (lambda: figures.strips(X, X[:2], path), "x_adv"),
        (lambda: figures.strips(X, 2 * X, path), "x_adv"),
        (lambda: figures.strips(attack(), X, path), "x"),
        (lambda: figures.strips(X, X, path, y=Y[:3]), "captions"),
        (
            lambda: figures.strips(X, X, path, y_adv=torch.zeros(len(X), 10)),
            "y_adv: .*of logits pass .argmax",
        ),
        (lambda: figures.training([], path), "reports"),
        (lambda: figures.boundary(plane, X, Y, path=path), "x"),
        (lambda: figures.boundary(plane, POINTS, KINDS, POINTS[:2], path), "x_adv"),
        (lambda: figures.boundary(plane, POINTS, KINDS + 2, path=path), "y"),
        (lambda: figures.curves(LINE, path), "lines"),
        (lambda: figures.Strip("a", X, list("abc")), "captions"),
        (lambda: figures.Strip("a", X, list("abcd"), torch.tensor([True])), "marked"),
        (lambda: figures.Strip("a", X.expand(4, 2, 8, 8)), "images"),
        (lambda: figures.curves({}, path), "lines"),
        (lambda: figures.curves({"a": ([0, 1], [1])}, path), "lines"),
        (lambda: figures.curves({"a": LINE}, tmp_path / "a.gif"), "path"),
        (lambda: thumbnails(constructed(base), base, path, per_class=0), "per_class"),
        (lambda: thumbnails(constructed(base), base, tmp_path / "a.gif"), "path"),
        (lambda: thumbnails(constructed(two), two, path), "images"),
    ):
        with pytest.raises(InputError, match=f"^{says}" if ":" in says else f"{says}.*expected"):
            wrong()
    assert list(tmp_path.iterdir()) == []
