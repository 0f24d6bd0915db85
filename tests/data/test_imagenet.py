"""The named images of ImageNet: their order, labels and preprocessing; and the nine super-classes."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from fastadv.data import load
from fastadv.data.published import NUMBERS, PREPROCESSINGS, SUPER_CLASSES, NamedImages
from tests.refusals import refuses

NAMES = ["n00000700/ILSVRC2012_val_00015253.JPEG", "n00000003/b.png", "n00000700/a.png"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A thousand class folders with three images of 300 x 400 among them."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        (root / "val" / f"n{number:08}").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in NAMES:
        pixels = draw.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / name, format="PNG")
    (root / "ids.txt").write_text("\n".join(NAMES) + "\n\n")
    return root


def read(root, options):
    dataset = load(f"imagenet:ids={root / 'ids.txt'}{options}", "test", root)
    assert isinstance(dataset, NamedImages)
    return dataset


def test_images_come_in_the_order_of_their_list(root):
    dataset = read(root, "")
    assert [str(path.relative_to(root / "val")) for path in dataset.paths] == NAMES
    assert dataset.labels.tolist() == [700, 3, 700]
    assert not dataset.fixed_order, "anybody's list may be sorted"
    assert (dataset.num_classes, dataset.shape) == (1000, (3, 224, 224))
    part = dataset.subset([1])
    assert torch.equal(part[0][0], dataset[1][0])
    assert part.data_hash != dataset.data_hash


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocessing_is_that_of_torchvision(root, name):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

    crop, bicubic = CenterCrop(224), InterpolationMode.BICUBIC
    expected = {
        "Res256Crop224": [Resize(256), crop],
        "BicubicRes256Crop224": [Resize(256, interpolation=bicubic), crop],
        "BicubicRes224Crop224": [Resize(224, interpolation=bicubic), crop],
        "Res224": [Resize([224, 224])],
        "Crop288": [CenterCrop(288)],
        "none": [],
    }
    dataset = read(root, f",preprocessing={name}")
    image = Image.open(root / "val" / NAMES[1]).convert("RGB")
    assert torch.equal(dataset[1][0], Compose([*expected[name], ToTensor()])(image))
    assert dataset.note == f"preprocessing {name}"
    assert (dataset.data_hash == read(root, "").data_hash) == (name == "Res256Crop224")


def test_the_list_of_robustbench_is_shipped(root):
    numbers = np.load(NUMBERS)
    # the first and last lines of its imagenet_test_image_ids.txt
    assert (numbers[0], numbers[1], numbers[-1]) == (15253, 20685, 25432)
    assert len(set(numbers.tolist())) == 5000
    assert (numbers.min(), numbers.max()) == (11, 49999)
    says = r"the 5,000 images .* got none for 4,999 of them, such as \*/ILSVRC"
    refuses(says, load, "imagenet", "test", root)


@pytest.mark.slow
def test_labels_are_the_super_classes_of_the_paper(tmp_path):
    """Each of a thousand class folders has one image whose red and green values tell its number."""
    for number in range(1000):
        folder = tmp_path / "val" / f"n{number:08}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number // 256, number % 256, 0)).save(folder / "image.png")
    dataset = load("restricted_imagenet", "test", tmp_path, size=8)
    assert dataset.classes == ("dog", "cat", "frog", "turtle", "bird", "monkey", "fish", "crab", "insect")
    assert (dataset.name, dataset.shape) == ("restricted_imagenet test", (3, 8, 8))
    for image, label in (dataset[i] for i in range(len(dataset))):
        red, green = (round(float(image[c, 0, 0]) * 255) for c in range(2))
        first, last = SUPER_CLASSES[dataset.classes[label]]
        assert first <= 256 * red + green <= last
    assert Counter(dataset.labels.tolist()) == {0: 118, 1: 5, 2: 3, 3: 5, 4: 21, 5: 18, 6: 9, 7: 4, 8: 20}


def test_another_number_of_class_folders_is_refused(root, tmp_path):
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    says = r"expected the 1000 class folders of ImageNet .* got 1;"
    refuses(says, load, "restricted_imagenet", "train", tmp_path)
    refuses("expected a folder train/", load, "restricted_imagenet", "train", root)
