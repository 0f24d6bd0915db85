"""What tells a data set from another: samples, as they come out of it, whatever holds them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from fastadv.data import ImageSet, content, pairs
from fastadv.data.content import describe_data
from fastadv.data.sampling import known_labels

X, Y = torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])
OTHER = X.clone()
OTHER[3, 0, 2, 2] += 1


class Held(Dataset):
    """Items as they are made of an image and its label, wherever they are held."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return 6

    def __getitem__(self, place):
        return self.read(place)


class Behind:
    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Mapped(Behind):
    def __getitem__(self, place):
        image, label = self.inner[place]
        return image, label // 2


def halved(kind):
    class Halved(kind):
        def __getitem__(self, place):
            image, label = super().__getitem__(place)
            return image, label // 2

        def __getitems__(self, places):
            return [self[place] for place in places]

    return Halved


Halved, HalvedTensors = halved(Subset), halved(TensorDataset)


def listed(x, y, image=lambda image: image):
    return [(image(each), label) for each, label in zip(x, y.tolist(), strict=True)]


def mappings(x, y):
    return [{"image": image, "label": label} for image, label in listed(x, y)]


SETS = {
    "tuples": listed,
    "arrays": lambda x, y: listed(x, y, Tensor.numpy),
    "pictures": lambda x, y: listed(x, y, lambda image: Image.fromarray(image[0].numpy())),
    "mappings": mappings,
    "pairs": lambda x, y: pairs(mappings(x, y)),
    "images": lambda x, y: ImageSet(x, y, 3, "any"),
    "joined": lambda x, y: ConcatDataset([TensorDataset(x[:2], y[:2]), TensorDataset(x[2:], y[2:])]),
}


@pytest.mark.parametrize("kind", SETS)
def test_sets_are_alike_where_all_items_are(kind):
    before = torch.get_rng_state()
    made = [(X, Y), (OTHER, Y), (X, Y.flip(0).roll(1)), (X.flip(0), Y.flip(0)), (X[:5], Y[:5]), (X, Y)]
    hashes = [describe_data(SETS[kind](x, y)) for x, y in made]
    assert len({*hashes}) == 5
    assert hashes[0] == hashes[-1]
    assert torch.equal(torch.get_rng_state(), before)


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
    noisy, other = (Held(lambda k, by=by: (X[k] + by * torch.rand(1, 4, 4), int(Y[k]))) for by in (1, 2))
    assert describe_data(noisy) == describe_data(noisy) != describe_data(other)
    generator = torch.Generator().manual_seed(0)
    assert describe_data(Held(lambda k: (X[k] + torch.rand(1, generator=generator), 0))) == "6 drawn"


class Telling(Dataset):
    targets, target_transform = Y.tolist(), None

    def __len__(self):
        return 6

    def __getitem__(self, place):
        label = self.targets[place]
        return X[place], label if self.target_transform is None else self.target_transform(label)


class Turned(Telling):
    target_transform = staticmethod(lambda label: 2 - label)


class Named(Telling):
    def __getitem__(self, place):
        return {"image": X[place], "label": self.targets[place] // 2}


TENSORS = TensorDataset(X, Y)
MAPPED = {
    "a subset": Halved(TENSORS, range(6)),
    "tensors": HalvedTensors(X, Y),
    "what hands on": Mapped(Telling()),
    "a subset of it": Subset(Halved(TENSORS, range(6)), [3, 2]),
    "joined": ConcatDataset([TENSORS, Halved(TENSORS, range(6))]),
    "a transform": Subset(Turned(), [0, 1]),
    "what hands on a transform": Subset(Mapped(Turned()), [0, 1]),
    "mappings": Subset(pairs(Named()), [0, 1, 2]),
}


@pytest.mark.parametrize("kind", MAPPED)
def test_labels_that_items_do_not_have_are_not_taken(kind):
    assert known_labels(MAPPED[kind]) is None


def test_labels_of_parts_are_those_of_their_sets():
    parts = [Subset(Telling(), [5, 1]), TENSORS, Subset(Subset(TENSORS, [2, 4]), [1])]
    joined = ConcatDataset([*parts, pairs(Telling(), 0, 1)])
    assert known_labels(joined).tolist() == [int(label) for _, label in joined]
