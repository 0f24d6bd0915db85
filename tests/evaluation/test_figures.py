"""Figures: files of the kind asked for, whole or absent, without pyplot's global state."""

import inspect

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from fastadv.errors import InputError
from fastadv.evaluation import figures
from fastadv.evaluation.figures import _curves, _images

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4)
LINE = (np.linspace(0, 1, 5), np.linspace(0.9, 0.1, 5))


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_each_kind_of_file(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    figures.curves({"net": LINE}, path)
    start = path.read_bytes()[:5]
    assert start.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[kind])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32])
def test_examples_show_the_images_and_the_difference(tmp_path, channels, size):
    x = torch.full((2, channels, size, size), 0.5)
    x_adv = x.clone()
    x_adv[:, :, : size // 2] += 0.05
    figures.examples(x, x_adv, Y[:2], Y[:2] + 1, tmp_path / "a.png", classes=list("abcd"), title="an attack")
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] > 500
    assert ((picture[..., :3] - 0.5).max(-1) < 0.01).mean() > 0.05, "the grey images are not there"
    top = (
        (1.0, 1.0, 1.0)
        if channels == 3
        else tuple(int(figures.VERMILION[i : i + 2], 16) / 255 for i in (1, 3, 5))
    )
    assert (np.abs(picture[..., :3] - np.array(top)).max(-1) < 0.01).mean() > 0.02, (
        "the amplified difference is not there"
    )


def test_examples_without_any_difference(tmp_path):
    figures.examples(X, X, Y, Y, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("value", "gain"),
    [(1 / 0.3, 3), (5.0, 5), (31.9, 30), (15.9, 15), (1.0, 1), (0.4, 1), (9.9, 8), (10.0, 10)],
)
def test_amplification_is_a_round_number_that_does_not_saturate(value, gain):
    assert _images.round_down(value) == pytest.approx(gain)


def test_labels_at_the_ends_do_not_overlap():
    placed = _curves.spread([0.0, 0.001, 0.002, 0.8], 0.06)
    assert placed == sorted(placed)
    assert placed[0] >= 0
    assert np.diff(placed).min() > 0.059
    assert placed[3] == pytest.approx(0.8)
    assert _curves.spread([0.5, 0.1], 0.06) == [0.5, 0.1]


def test_curves_and_bars(tmp_path):
    figures.curves(
        {"a": LINE, "b": ([0, 1], [1, 0])}, tmp_path / "c.png", radius="L2 radius", title="two", chance=0.1
    )
    nets = {"standard": {"clean": 0.98, "robust": 0.0}, "trained": {"clean": 0.9, "robust": 0.5}}
    figures.bars(nets, tmp_path / "b.png", title="nets", reference={"standard": {"clean": 0.95}})
    assert imread(tmp_path / "c.png").std() > 0.01
    assert imread(tmp_path / "b.png").std() > 0.01


def test_errors_are_named_and_leave_no_file(tmp_path):
    path = tmp_path / "a.png"
    for wrong in (
        lambda: figures.examples(X, X[:2], Y, Y, path),
        lambda: figures.examples(X[0], X[0], Y, Y, path),
        lambda: figures.examples(X, X, Y[:1], Y, path),
        lambda: figures.examples(X[:0], X[:0], Y[:0], Y[:0], path),
        lambda: figures.curves({}, path),
        lambda: figures.curves({"a": ([0, 1], [1])}, path),
        lambda: figures.bars({}, path),
        lambda: figures.bars({"a": {"clean": 1.0}, "b": {"robust": 0.0}}, path),
        lambda: figures.curves({"a": LINE}, tmp_path / "a.gif"),
    ):
        with pytest.raises(InputError, match="expected"):
            wrong()
    assert list(tmp_path.iterdir()) == []


def test_no_pyplot():
    assert "matplotlib.pyplot" not in inspect.getsource(figures)
