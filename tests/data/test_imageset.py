"""Images in memory."""

import pytest
import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError


def small(**changes):
    x = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fields = {"x": x, "y": torch.tensor([0, 1] * 3), "classes": ["zero", "one"], "name": "small"}
    return ImageSet(**(fields | changes))


def pixel(value):
    x = torch.full((6, 1, 4, 4), 0.5)
    x[3, 0, 2, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.zeros(6, 4, 4)}, r"x \[N, C, H, W\] or \[N, D\] and y \[N\], got \[6, 4, 4\] .* ndim="),
        ({"x": torch.zeros(6, 2), "ndim": 4}, r"got \[6, 2\]"),
        ({"y": torch.zeros(5, dtype=torch.int64)}, r"got \[6, 1, 4, 4\] and \[5\]"),
        ({"x": torch.zeros(0, 1, 4, 4), "y": torch.zeros(0, dtype=torch.int64)}, "at least one image"),
        ({"x": torch.zeros(6, 1, 4, 4, dtype=torch.float64)}, "float64"),
        ({"x": torch.zeros(6, 1, 4, 4, dtype=torch.int64)}, "int64; convert"),
        ({"y": torch.zeros(6, dtype=torch.int32)}, "labels int64 on cpu, got torch.int32"),
        ({"y": torch.zeros(6, dtype=torch.int64, device="meta")}, "on meta"),
        ({"x": pixel(float("nan"))}, "got NaN"),
        ({"x": pixel(1.001)}, r"pixels in \[0, 1\], got 0.5 to 1.001; rescale"),
        ({"x": pixel(-0.001)}, "got -0.001 to 0.5"),
        ({"classes": 1}, "labels from 0 to 0, got 0 to 1"),
        ({"y": torch.tensor([0, 1, 0, 1, 0, -1])}, "got -1 to 1"),
    ],
)
def test_bad_images_and_labels_are_refused_by_name(changes, match):
    with pytest.raises(InputError, match=match) as caught:
        small(**changes)
    assert str(caught.value).startswith("small: ")
    assert "\n" not in str(caught.value)


def test_points_and_series_take_the_road_of_images():
    points = torch.linspace(-2, 2, 12).view(6, 2)
    flat = small(x=points, box=(-3.0, 3.0))
    assert repr(flat) == "ImageSet('small', 6 samples of [2], 2 classes)"
    assert torch.equal(flat.subset([1, 2]).x, points[1:3])
    series = small(x=torch.zeros(6, 2, 9), ndim=3)
    assert series.subset([0]).shape == (2, 9)
    net, threat = torch.nn.Linear(2, 2), fa.Linf(0.1, box=flat.box)
    (report,) = fa.train.fit(net, flat, "pgd", threat=threat, epochs=1, test_set=flat, test_attacks="pgd")
    table = fa.evaluate(net, flat, "pgd", threat=threat)
    assert report.robust_accuracy["pgd"] == table.worst_case
    out = fa.attacks.pgd(net, points, flat.y, threat)
    assert out.robust_accuracy == table.worst_case


def test_a_part_stays_in_its_box_and_some_classes_alone_are_numbered_anew():
    x = torch.rand(6, 1, 4, 4)
    assert small(x=x, box=(-1.0, 2.0)).subset([1]).box == (-1.0, 2.0)
    assert small(x=x, classes=3).classes == ("0", "1", "2")
    dataset = small(y=torch.tensor([2, 0, 3, 1, 3, 0]), classes=["a", "b", "c", "d"], note="n")
    part = dataset.only([3, 0])
    assert torch.equal(part.x, dataset.x[[1, 2, 4, 5]])
    assert part.y.tolist() == [1, 0, 0, 1]
    assert (part.classes, part.name, part.note) == (("d", "a"), "small, d against a", "n")
    assert part.y.dtype == torch.int64
    for wrong in ([3], [3, 3], [3, 4], [-1, 3]):
        with pytest.raises(InputError, match="two or more different classes from 0 to 3, got"):
            dataset.only(wrong)
