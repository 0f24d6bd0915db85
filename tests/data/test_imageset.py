"""Images in memory."""

import pytest
import torch

from fastadv.data import ImageSet
from fastadv.errors import InputError


def small(**changes):
    x = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    fields = {"x": x, "y": torch.tensor([0, 1] * 3), "classes": ["zero", "one"], "name": "small"}
    return ImageSet(**(fields | changes))


def test_items_are_float_images_and_labels():
    dataset = small()
    image, label = dataset[3]
    assert image.dtype == torch.float32
    assert torch.equal(image, dataset.x[3].float() / 255)
    assert (label, len(dataset), dataset.shape, dataset.num_classes) == (1, 6, (1, 4, 4), 2)
    assert dataset.x.dtype == torch.uint8
    x = torch.rand(6, 1, 4, 4)
    assert torch.equal(small(x=x)[2][0], x[2])
    assert small(classes=3).classes == ("0", "1", "2")


def test_a_subset_keeps_the_order_asked_for():
    dataset = small(note="copies")
    part = dataset.subset([4, 0, 4])
    assert torch.equal(part.x, dataset.x[[4, 0, 4]])
    assert part.labels.tolist() == [0, 0, 0]
    assert (part.name, part.classes, part.note) == ("small", ("zero", "one"), "copies")
    assert torch.equal(dataset.subset(torch.tensor([1], dtype=torch.int32)).x, dataset.x[1:2])
    assert small(x=torch.rand(6, 1, 4, 4), box=(-1.0, 2.0)).subset([1]).box == (-1.0, 2.0)


def test_the_hash_knows_every_pixel_label_and_place():
    dataset, x, y = small(), small().x.clone(), small().y.clone()
    x[5, 0, 3, 3] ^= 1
    y[0] = 1
    others = small(x=x), small(y=y), dataset.subset([1, 0, 2, 3, 4, 5])
    assert len({dataset.data_hash, *(each.data_hash for each in others)}) == 4
    assert small().data_hash == dataset.data_hash


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


def test_some_classes_alone_are_numbered_anew():
    dataset = small(y=torch.tensor([2, 0, 3, 1, 3, 0]), classes=["a", "b", "c", "d"], note="n")
    part = dataset.only([3, 0])
    assert torch.equal(part.x, dataset.x[[1, 2, 4, 5]])
    assert part.y.tolist() == [1, 0, 0, 1]
    assert (part.classes, part.name, part.note) == (("d", "a"), "small, d against a", "n")
    assert part.y.dtype == torch.int64
    for wrong in ([3], [3, 3], [3, 4], [-1, 3]):
        with pytest.raises(InputError, match="two or more different classes from 0 to 3, got"):
            dataset.only(wrong)
