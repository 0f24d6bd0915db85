"""Images as files of 8 bits: inside the ball, and read back with the same labels and values."""

import csv

import pytest
import torch

import fastadv as fa
from tests.refusals import refuses

RADII = {fa.Linf: 8.4 / 255, fa.L2: 0.5, fa.L1: 3.0, fa.L0: 5}
Y = torch.tensor([0, 2, 3, 3, 0, 2, 3, 0])


def images(channels=3, box=(0, 1)):
    """Eight images of 8 bits in a box."""
    levels = torch.randint(256, (8, channels, 6, 5), generator=torch.Generator().manual_seed(0)).double()
    return (box[0] + levels / 255 * (box[1] - box[0])).float()


def read(folder, channels=3):
    """The images of a folder in the order in which they were saved, their labels, and the classes."""
    dataset = fa.data.load("imagefolder", "all", data_dir=folder, channels=channels)
    order = sorted(range(len(dataset)), key=lambda place: dataset.paths[place].name)
    x, y = zip(*(dataset[place] for place in order), strict=True)
    return torch.stack(x), list(y), dataset.classes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("kind", RADII, ids=lambda kind: kind.norm)
def test_files_hold_points_of_the_ball(kind, box, channels, tmp_path):
    wide, x = box[1] - box[0], images(channels, box)
    threat = kind(RADII[kind] * (1 if kind is fa.L0 else wide), box)
    saved = fa.data.save_images(tmp_path / "a", threat.random_start(x), Y, x, threat)
    assert threat.contains(saved, x).all()
    assert not torch.equal(saved, x), "it moves nothing"
    found, y, classes = read(tmp_path / "a", channels)
    assert (y, classes) == (Y.tolist(), ("0", "1", "2", "3")), "also the class without images"
    assert torch.allclose(box[0] + wide * found, saved, rtol=0, atol=1e-6 * wide)
    assert box != (0, 1) or torch.equal(found, saved)


@pytest.mark.parametrize("classes", [list("abcd"), list("cbda"), ["a", "b", "c/d", "e"], 11])
def test_labels_come_back_whatever_the_classes_are_called(classes, tmp_path):
    y = Y if classes != 11 else Y + torch.tensor([0, 8, 0, 0, 0, 0, 0, 0])
    saved = fa.data.save_images(tmp_path, (255 * images()).byte(), y, classes=classes)
    x, labels, found = read(tmp_path)
    assert torch.equal(x, saved)
    assert torch.equal(x, images())
    assert (labels, len(found)) == (y.tolist(), 11 if classes == 11 else 4)
    with (tmp_path / "metadata.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["label"]) for row in rows] == labels
    assert all((tmp_path / row["file_name"]).is_file() for row in rows)
    assert classes == 11 or [row["class"] for row in rows] == [classes[k] for k in labels]


def test_what_cannot_be_saved_is_refused_and_writes_nothing(tmp_path):
    x, ball, endless = images(), fa.Linf(0.001), fa.Linf(0.1, box=(0, float("inf")))
    between = (x + 0.002).clamp(0, 1)
    for says, arguments in {
        "images: expected .*pass out.x_adv": (fa.attacks.pgd(torch.nn.Flatten(), x, Y, ball), Y),
        r"images: expected \[N, 1 or 3": (x[:, :2], Y),
        "images: expected pixels in": (x + 1, Y),
        "x, threat: expected both": (x, Y, x),
        "in the ball around each x, got none for 8 of 8; round x": (between, Y, between, ball),
        "threat: expected a ball, got": (x, Y, x, fa.Moved(1, 0)),
        "box: expected a finite one": (x, Y, x, endless),
        "y: expected one integer": (x, Y[:3]),
    }.items():
        refuses(says, fa.data.save_images, tmp_path / "a", *arguments)
    assert [*tmp_path.iterdir()] == []
    fa.data.save_images(tmp_path / "a", x, Y)
    refuses("folder: expected one that is not there yet or", fa.data.save_images, tmp_path / "a", x, Y)
