"""A user's own images."""

import json

import pytest
import torch
from PIL import Image

from fastadv.data import FolderSet, batches, load
from fastadv.errors import CorruptFileError
from tests.refusals import refuses


def paint(path, red, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (red, 0, 0) if mode == "RGB" else red).save(path)


@pytest.fixture
def root(tmp_path):
    """Three images of "b" and two of "a" to train on, one of each to test on."""
    pets = tmp_path / "pets"
    for file, red in {"b/0": 100, "b/1": 101, "b/2": 102, "a/0": 0, "a/1": 1}.items():
        paint(pets / "train" / f"{file}.png", red)
    for name in ("a", "b"):
        paint(pets / "test" / name / "0.png", 7)
    return pets


def read(root, split="train", size=None, limit=None):
    dataset = load("imagefolder", split, root, size, limit)
    assert isinstance(dataset, FolderSet)
    return dataset


def test_images_come_class_by_class_and_images_are_what_the_files_hold(root):
    dataset = read(root)
    assert (dataset.name, dataset.classes, dataset.num_classes) == ("pets train", ("a", "b"), 2)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.shape == (3, 6, 6)
    reds = [round(float(dataset[i][0][0].max()) * 255) for i in range(5)]
    assert reds == [0, 1, 100, 101, 102]
    image, label = dataset[2]
    assert (image.dtype, label) == (torch.float32, 1)
    assert read(root, limit=2).labels.tolist() == [0, 1]


def test_the_test_split_is_test_or_val(root):
    assert len(read(root, "test")) == 2
    (root / "test").rename(root / "val")
    assert len(read(root, "test")) == 2
    (root / "val").rename(root / "elsewhere")
    refuses(r"got only train; .* name .*/pets/train, of which", read, root, "test")


def test_labels_of_the_test_split_are_those_of_train(root):
    (root / "test" / "a").rename(root / "test" / "c")
    refuses(r"pets/test: .* of .*pets/train, got a, c in one alone", read, root, "test")


def test_of_class_folders_alone_a_fifth_is_held_out_by_name(tmp_path):
    root = tmp_path / "pets"
    for name, count in {"a": 15, "b": 2}.items():
        for k in range(count):
            paint(root / name / f"{k}.png", k)
    train, test = read(root), read(root, "test")
    assert (train.name, test.name) == ("pets train", "pets test")
    held_out = {path.relative_to(root).as_posix() for path in test.paths}
    assert held_out == {"a/0.png", "a/2.png", "a/8.png", "b/0.png"}
    assert len(train) == 13
    assert not {*train.paths} & {*test.paths}
    assert train.note == test.note == test.subset([0]).note
    assert "a fifth of each class" in test.note
    (root / "b" / "1.png").unlink()
    refuses(r"two images or more of each class, .* got one of b; add", read, root)


def test_other_modes_become_rgb_and_size_resizes_and_cuts_out_the_center(tmp_path):
    paint(tmp_path / "train" / "a" / "gray.png", 51, (10, 5), mode="L")
    image = read(tmp_path, size=4)[0][0]
    assert image.shape == (3, 4, 4)
    torch.testing.assert_close(image, torch.full((3, 4, 4), 0.2))
    # Left half black, right half white: the cut keeps the middle.
    wide = Image.new("L", (20, 10))
    wide.paste(255, (10, 0, 20, 10))
    wide.save(tmp_path / "train" / "a" / "gray.png")
    image = read(tmp_path, size=10)[0][0]
    assert torch.equal(image[0, 0], torch.tensor([0.0] * 5 + [1.0] * 5))


def test_images_are_read_in_gray_where_one_channel_is_asked_for(root):
    dataset = load("imagefolder", "train", root, channels=1)
    named = load("imagefolder:size=4,channels=1", "train", root)
    assert (dataset.shape, named.shape, named[0][0].shape) == ((1, 6, 6), (1, 4, 4), (1, 4, 4))
    assert [int(dataset.pixels(i)[0, 0, 0]) for i in (0, 3)] == [0, 30]  # 0.299 of a red of 101
    assert (
        dataset.data_hash != read(root).data_hash == load("imagefolder:channels=3", "train", root).data_hash
    )
    assert load("imagefolder", "train", root, channels=1).in_memory().x.shape == (5, 1, 6, 6)


def test_files_that_are_no_images_and_hidden_ones_are_left_out(root):
    (root / "train" / "a" / "notes.txt").write_text("x")
    (root / "train" / "a" / ".hidden.png").write_text("x")
    (root / "train" / ".cache").mkdir()
    paint(root / "train" / "a" / "deeper" / "2.PNG", 9)
    assert len(read(root)) == 6


def test_the_hash_knows_files_labels_size_and_subset(root):
    dataset = read(root)
    others = read(root, size=4), dataset.subset([0, 1]), dataset.subset([1, 0])
    hashes = {other.data_hash for other in (dataset, *others)}
    paint(root / "train" / "a" / "9.png", 3)
    assert len(hashes | {read(root).data_hash}) == 5
    assert json.loads(json.dumps(dataset.describe()))["data_hash"] == dataset.data_hash


def test_a_part_has_the_shape_of_its_first_image(root):
    dataset = read(root)
    assert dataset.shape == (3, 6, 6)
    paint(root / "train" / "b" / "2.png", 102, (9, 6))
    assert dataset.subset([4, 0]).shape == (3, 6, 9)


@pytest.mark.parametrize("content", [b"", b"text, not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_damaged_image_is_named_when_it_is_read(root, content):
    (root / "train" / "a" / "1.png").write_bytes(content)
    dataset = read(root)
    with pytest.raises(CorruptFileError, match=r"a/1\.png: expected a whole image file"):
        dataset[1]


def test_images_read_into_memory_are_those_on_disk(root):
    lazy = read(root)
    held = lazy.in_memory()
    assert (held.classes, held.name, held.y.tolist()) == (lazy.classes, lazy.name, lazy.labels.tolist())
    assert torch.equal(held.x, torch.stack([lazy.pixels(i) for i in range(5)]))  # uint8
    paint(root / "train" / "b" / "2.png", 3, (9, 6))
    refuses(r"2\.png: expected an image of shape \[3, 6, 6\].*6, 9\].*size=", read(root).in_memory)
    refuses(r"of one shape, got .* load the set with size=32, or", list, batches(read(root), 5))
    sized = load("imagefolder:size=4", "train", root)
    assert isinstance(sized, FolderSet)
    assert sized.in_memory().shape == read(root, size=4).in_memory().shape == (3, 4, 4)
