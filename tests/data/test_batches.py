"""A data set in batches, with the number of every sample."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fastadv.data import ImageSet, batches, load
from fastadv.errors import CorruptFileError, InputError
from tests.data.test_kinds import files
from tests.refusals import refuses


def images(count=11):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)


def test_a_batch_is_a_copy():
    dataset = ImageSet(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), 1, "memory")
    before = dataset.x.clone()
    for x, _, _ in batches(dataset, 4):
        x.zero_()
    assert torch.equal(dataset.x, before)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_images_that_cannot_be_served_are_named_in_one_line(tmp_path, workers):
    files(tmp_path, images(), torch.arange(11) % 2)
    folder = tmp_path / "pets"
    Image.new("RGB", (9, 9)).save(folder / "train" / "a" / "99.png")
    with pytest.raises(InputError, match=r"one shape, got \[3, 4, 4\], \[3, 9, 9\]; load the set with size="):
        list(batches(load("imagefolder", data_dir=folder), 20, workers=workers))
    resized = load("imagefolder", data_dir=folder, size=3)
    assert next(batches(resized, 20))[0].shape == (12, 3, 3, 3)
    broken = folder / "train" / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(CorruptFileError, match=r"3\.png: expected a whole image file") as caught:
        list(batches(resized, 4, workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "label", "match"),
    [
        (torch.full((3, 4, 4), float("nan")), 0, "got NaN"),
        (torch.full((3, 4, 4), 1.5), 0, "got 1.5 to 1.5"),
        (torch.full((3, 4, 4), -0.5), 0, "got -0.5 to -0.5"),
        (torch.zeros(3, 4, 4, dtype=torch.float64), 0, "float64"),
        (torch.zeros(3, 4, 4), 0.5, "integer labels"),
        (torch.zeros(3, 4, 4), torch.tensor([1]), r"integer labels, .* got labels of shape \[1\]"),
        (torch.zeros(3, 4, 4), "cat", "integer labels.*str"),
        (torch.zeros(3, 4, 4), torch.tensor(True), r"got torch\.bool; .*Signs\(\), for classes y\.long\(\)"),
        (torch.zeros(3, 4, 4), [0.2, 0.8], r"labels of shape \[2\]; of probabilities"),
        (Image.new("RGB", (4, 4)), 0, "sample 0: expected the image as a tensor, got Image"),
    ],
)
def test_bad_samples_of_any_data_set_are_refused(image, label, match):
    refuses(match, list, batches([(image, label)], 2))


class Drawing(Dataset[Any]):
    """Images whose transform draws from every generator there is, as users' transforms do."""

    def __len__(self):
        return 11

    def __getitem__(self, position):
        drawn = torch.rand(()), torch.tensor(np.random.rand()), torch.tensor(random.random())
        return torch.stack([torch.full((2, 2), float(value)) for value in drawn]), position % 3


@pytest.mark.slow
def test_what_a_transform_draws_is_keyed_by_seed_and_sample_alone():
    def served(seed, batch_size=4, workers=0, order=None):
        torch.manual_seed(random.SystemRandom().randrange(2**30))
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        parts = list(batches(Drawing(), batch_size, order, workers=workers, seed=seed))
        now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        assert torch.equal(states[0], now[0])
        assert states[1:] == now[1:]
        return {int(i): image for x, _, ids in parts for i, image in zip(ids, x, strict=True)}

    first = served(5)
    for other in (served(5, 3), served(5, 2, workers=2, order=range(10, -1, -1))):
        assert all(torch.equal(first[i], other[i]) for i in range(11))
    for channel in range(3):
        assert len({float(image[channel, 0, 0]) for image in [*first.values(), *served(6).values()]}) == 22


@pytest.mark.parametrize("narrow", [(0.0, 0.5), (0.5, 1.0), (0.2, 0.9)])
def test_images_lie_in_the_box_of_every_threat(narrow):
    """Whatever their order, and whether the images lie in memory or are read."""
    data = ImageSet(images().float() / 255, torch.arange(11) % 3, 3, "memory")
    for dataset in (data, [data[k] for k in range(11)]):
        assert len(list(batches(dataset, 4, box={"one": (0.0, 1.0), "two": (-1.0, 2.0)}))) == 3
        for box in (narrow, {"wide": (0.0, 1.0), "narrow": narrow}, {"narrow": narrow, "wide": (0.0, 1.0)}):
            refuses("rescale them", list, batches(dataset, 4, box=box))
