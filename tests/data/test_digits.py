"""The embedded digits."""

import pytest
import torch

from fastadv.data import ImageSet, load


def test_the_split_is_fixed_stratified_and_whole() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert isinstance(train, ImageSet)
    assert isinstance(test, ImageSet)
    assert (len(train), len(test)) == (1442, 355)
    assert train.shape == (1, 8, 8)
    x = train.x * 16
    assert torch.equal(x, x.round())
    assert (x.min(), x.max()) == (0, 16)
    counts = torch.bincount(train.labels), torch.bincount(test.labels)
    assert ((counts[1] / (counts[0] + counts[1]) - 0.2).abs() < 0.005).all()
    whole = {
        (image.numpy().tobytes(), int(y))
        for part in (train, test)
        for image, y in zip(part.x, part.y, strict=True)
    }
    assert len(whole) == 1797
    assert (train.data_hash, test.data_hash) == ("5b621d74d6b1e97f", "c0a4c23d8e85c297")


@pytest.mark.slow
def test_they_are_those_of_scikit_learn_in_their_order() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    theirs = datasets.load_digits()
    for split in ("train", "test"):
        ours = load("digits", split)
        assert isinstance(ours, ImageSet)
        images = torch.from_numpy(theirs.images).float().div(16).unsqueeze(1)
        places = torch.cat([(images == x).flatten(1).all(1).nonzero() for x in ours.x]).flatten()
        assert torch.equal(places, places.sort().values)
        assert torch.equal(ours.labels, torch.from_numpy(theirs.target)[places])


@pytest.mark.parametrize("split", ["train", "test"])
def test_resized_digits_stay_in_the_box_and_keep_their_labels(split: str) -> None:
    small, large = load("digits", split), load("digits", split, size=28)
    assert isinstance(large, ImageSet)
    assert large.x.shape == (len(small), 1, 28, 28)
    assert large.name == f"digits {split} at 28x28"
    assert torch.equal(large.labels, small.labels)
    # Bilinear: the mean is kept, up to the border.
    assert (large.x.mean(dim=(1, 2, 3)) - small.x.mean(dim=(1, 2, 3))).abs().max() < 0.02
