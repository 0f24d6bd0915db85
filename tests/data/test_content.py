"""What tells a data set from another where samples are read one by one, as they come out of it."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fastadv.data import content
from fastadv.data.content import describe_data

X = torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4)


class Held(Dataset):
    """Items as they are made of an image and its label, wherever they are held."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 6

    def __getitem__(self, place):
        return self.read(place)


def painted(image, first):
    image_of = Image.fromarray(image[0].numpy(), "P")
    image_of.putpalette([first] * 768)
    return image_of


@pytest.mark.parametrize(
    "item",
    [
        lambda k, change: {"image" if change else "picture": X[k], "label": 0},
        lambda k, change: (painted(X[k], 9 if change else 0), 0),
        lambda k, change: (X[k], 0, *(("1", "23") if change else ("12", "3"))),
        lambda k, change: (X[k].float() if change else X[k].int(), 0),
        lambda k, change: (X[k].numpy(), b"a" if change else b"b"),
        lambda k, change: (Path("a" if change else "b"), 0),
    ],
    ids=["keys", "palettes", "texts", "types", "bytes", "paths"],
)
def test_items_that_differ_in_one_thing_are_others(item):
    first, second, again = ([item(k, change) for k in range(6)] for change in (False, True, False))
    assert describe_data(first) == describe_data(again) != describe_data(second)


def test_of_many_items_some_are_read_from_the_first_to_the_last(monkeypatch):
    monkeypatch.setattr(content, "READ", 10)
    seen = list[int]()
    many = type(
        "Many", (), {"__len__": lambda _: 10**9, "__getitem__": lambda _, k: seen.append(k) or (k, 0)}
    )
    assert describe_data(many()).startswith("1000000000 ")
    assert (len({*seen}), min(seen), max(seen)) == (10, 0, 10**9 - 1)


def test_of_a_random_transform_the_items_follow_a_seed_and_others_count_by_their_number():
    noisy, other = (Held(lambda k, by=by: (X[k] + by * torch.rand(1, 4, 4), k)) for by in (1, 2))
    assert describe_data(noisy) == describe_data(noisy) != describe_data(other)
    generator = torch.Generator().manual_seed(0)
    assert describe_data(Held(lambda k: (X[k] + torch.rand(1, generator=generator), 0))) == "6 drawn"
