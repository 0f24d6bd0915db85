"""Sets of mappings and tuples, as pairs of an image and a label."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.data import batches, pairs
from fastadv.data.folder import read_image
from tests.refusals import refuses

X = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = [0, 1, 2, 2, 1, 0]


class Rows:
    """As a set of Hugging Face: rows by number, columns by name, and a fingerprint."""

    column_names = ("img", "fine")

    def __init__(self, image, mark="a"):
        self._rows = [{"img": image(x), "fine": y} for x, y in zip(X, Y, strict=True)]
        self._fingerprint, self.read = mark, 0

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self._rows]
        self.read += 1
        return self._rows[key]


def array(x):
    return x.permute(1, 2, 0).numpy()


def test_tuples_gray_images_and_transforms():
    items = [(7, array(x)[..., 0], y) for x, y in zip(X, Y, strict=True)]
    x, y, _ = next(batches(pairs(items, image=1, label=2), 6))
    assert torch.equal(x, X[:, :1].float() / 255)
    assert y.tolist() == Y
    halves = pairs(items, 1, 2, transform=lambda image: torch.from_numpy(image / 510).float()[None])
    assert torch.allclose(next(batches(halves, 6))[0], x / 2)
    assert pairs([(Image.new("CMYK", (5, 4)), 0)], 0, 1)[0][0].shape == (3, 4, 5)


def test_columns_of_text_are_no_labels():
    rows = Rows(lambda x: x)
    for row in rows._rows:
        row["fine"] = "cat"
    dataset = pairs(rows, "img", "fine")
    assert dataset.labels is None
    refuses(r"expected integer labels .* got str", next, batches(dataset, 2))


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ({"img": X[0], "label": 0}, "expected 'image' in each item, got dict with img, label; name"),
        ((X[0], 0), "expected 'image' in each item, got tuple with places 0 to 1"),
        ({"image": "a.png", "label": 0}, "expected the image as a tensor .* got str; turn it with"),
    ],
)
def test_items_without_the_parts_are_refused(item, match):
    refuses(f"sample 0: {match}", next, batches(pairs([item]), 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"])
def test_all_modes_are_read_as_the_files_of_a_folder_are(mode, tmp_path):
    if mode.startswith("I;16"):
        wanted = torch.arange(17, dtype=torch.uint8)[None] * 15
        values = wanted.numpy().astype(np.uint16) * 257  # of two equal bytes, in either order
        image = Image.frombytes(mode, (17, 1), values.tobytes())
    else:
        image = Image.fromarray(array(X[0])).convert(mode)
        image.convert("RGB").save(tmp_path / "a.png")
        wanted = read_image(tmp_path / "a.png")
    assert bool((pairs([(image, 0)], 0, 1)[0][0] == wanted).all())


def test_images_of_32_bits_are_refused():
    for mode in ("I", "F"):
        dataset = pairs([(Image.new(mode, (3, 2)), 0)], 0, 1)
        refuses(f"an image of 8 or 16 bits, got 32 .*mode {mode}.*transform=", dataset.__getitem__, 0)
