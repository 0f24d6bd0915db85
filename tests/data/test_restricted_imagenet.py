"""Restricted ImageNet: nine super-classes over a thousand class folders."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from fastadv.data import FolderSet, load
from fastadv.data.imagenet import SUPER_CLASSES
from fastadv.errors import InputError


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand class folders, each with one image whose red and green values tell its number."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        folder = root / "val" / f"n{number:08}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number // 256, number % 256, 0)).save(folder / "image.png")
    return root


@pytest.mark.slow
def test_labels_are_the_super_classes_of_the_paper(imagenet: Path) -> None:
    dataset = load("restricted_imagenet", "test", imagenet, size=8)
    assert isinstance(dataset, FolderSet)
    assert dataset.classes == ("dog", "cat", "frog", "turtle", "bird", "monkey", "fish", "crab", "insect")
    assert (dataset.name, dataset.shape) == ("restricted_imagenet test", (3, 8, 8))
    for image, label in (dataset[i] for i in range(len(dataset))):
        red, green = (round(float(image[c, 0, 0]) * 255) for c in range(2))
        first, last = SUPER_CLASSES[dataset.classes[label]]
        assert first <= 256 * red + green <= last
    sizes = Counter(dataset.labels.tolist())
    assert sizes == {0: 118, 1: 5, 2: 3, 3: 5, 4: 21, 5: 18, 6: 9, 7: 4, 8: 20}


def test_another_number_of_class_folders_is_refused(imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(InputError, match=r"expected the 1000 class folders of ImageNet .* got 1;"):
        load("restricted_imagenet", "train", tmp_path)
    with pytest.raises(InputError, match="expected a folder train/"):
        load("restricted_imagenet", "train", imagenet)
