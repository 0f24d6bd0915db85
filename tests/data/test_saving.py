"""Images as files of 8 bits: inside the ball, and read back with the same labels and values."""

import csv

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from tests.refusals import refuses

GENERATOR = torch.Generator().manual_seed(0)
RADII = {fa.Linf: 8.4 / 255, fa.L2: 0.5, fa.L1: 3.0, fa.L0: 5}
NAMES = {
    "sorted": ["ant", "bee", "cat", "dog"],
    "not sorted": ["cat", "ant", "dog", "bee"],
    "numbers": 11,
}


def images(channels=3, box=(0, 1)):
    """Eight images of 8 bits in a box."""
    levels = torch.randint(256, (8, channels, 6, 5), generator=GENERATOR).double()
    return (box[0] + levels / 255 * (box[1] - box[0])).float()


def read(folder):
    """The images of a folder by the numbers in their names, with their labels and the names of classes."""
    dataset = fa.data.load("imagefolder", "all", data_dir=folder)
    return {int(path.stem): dataset[place] for place, path in enumerate(dataset.paths)}, dataset.classes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("kind", RADII, ids=lambda kind: kind.norm)
def test_files_hold_points_of_the_ball(kind, box, channels, tmp_path):
    wide = box[1] - box[0]
    x, y = images(channels, box), torch.tensor([0, 2, 3, 3, 0, 2, 3, 0])
    threat = kind(RADII[kind] * (1 if kind is fa.L0 else wide), box)
    x_adv = threat.project(threat.random_start(x), x)
    saved = fa.data.save_images(tmp_path / "a", x_adv, y, x, threat)
    assert threat.contains(saved, x).all()
    assert not torch.equal(saved, x), "it moves nothing"
    files, classes = read(tmp_path / "a")
    assert classes == ("0", "1", "2", "3"), "also of the class without images"
    for place in range(8):
        image, label = files[place]
        assert label == y[place]
        assert torch.allclose(box[0] + wide * image, saved[place].expand(3, 6, 5), rtol=0, atol=1e-6 * wide)
        assert box != (0, 1) or torch.equal(image, saved[place].expand(3, 6, 5))


@pytest.mark.parametrize("names", NAMES)
def test_labels_come_back_whatever_the_classes_are_called(names, tmp_path):
    classes, ids = NAMES[names], torch.arange(8) * 7
    y = torch.tensor([0, 1, 2, 3, 3, 2, 10, 9]) % (11 if classes == 11 else 4)
    fa.data.save_images(tmp_path, x := images(), y, classes=classes, ids=ids)
    files, found = read(tmp_path)
    assert {number: label for number, (_, label) in files.items()} == dict(
        zip(ids.tolist(), y.tolist(), strict=True)
    )
    assert len(found) == (11 if classes == 11 else 4)
    assert all(torch.equal(files[7 * place][0], x[place]) for place in range(8))
    with (tmp_path / "metadata.csv").open() as file:
        rows = [*csv.DictReader(file)]
    called = [str(k) for k in range(11)] if classes == 11 else classes
    for row, number, label in zip(rows, ids.tolist(), y.tolist(), strict=True):
        assert (int(row["id"]), int(row["label"]), row["class"].lstrip("0") or "0") == (
            number,
            label,
            called[label],
        )
        assert (tmp_path / row["file_name"]).is_file()


def test_what_cannot_be_saved_is_refused_and_writes_nothing(tmp_path):
    x, y = images(), torch.zeros(8, dtype=torch.int64)
    ball, between = fa.Linf(0.001), (x + 0.002).clamp(0, 1)
    for says, arguments in {
        "images: expected a tensor .*pass out.x_adv": (fa.attacks.pgd(torch.nn.Flatten(), x, y, ball), y),
        r"images: expected a tensor \[N, 1 or 3": (x[:, :2], y),
        "images: expected pixels in": (x + 1, y),
        "x, threat: expected both": (x, y, x),
        "points of 8 bits in the ball around each x, got none for 8 of 8; round x": (
            between,
            y,
            between,
            ball,
        ),
        "threat: expected a ball, got the map": (x, y, x, fa.Moved(1, 0)),
        "box: expected a finite one": (x, y, x, fa.Linf(0.1, box=(0, float("inf")))),
        "y: expected one integer": (x, y[:3]),
    }.items():
        refuses(says, fa.data.save_images, tmp_path / "a", *arguments)
    with pytest.raises(InputError, match="classes: expected names that folders can have, got 'a/b'"):
        fa.data.save_images(tmp_path / "a", x, y, classes=["a/b"])
    with pytest.raises(InputError, match="ids: expected a number of its own"):
        fa.data.save_images(tmp_path / "a", x, y, ids=y)
    assert [*tmp_path.iterdir()] == []
    fa.data.save_images(tmp_path / "a", x, y)
    refuses("folder: expected one that is not there yet or empty", fa.data.save_images, tmp_path / "a", x, y)
