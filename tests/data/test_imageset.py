"""Images in memory."""

import pytest
import torch

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
        ({"x": torch.zeros(6, 4, 4)}, r"expected x \[N, C, H, W\] and y \[N\], got \[6, 4, 4\]"),
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
