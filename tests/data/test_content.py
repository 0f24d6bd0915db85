"""What tells a data set from another, whatever holds its images."""

from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from fastadv.data import ImageSet, content, pairs
from fastadv.data.content import describe_data, describe_shared
from fastadv.data.sampling import known_labels
from fastadv.errors import InputError

X, Y = torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])
OTHER = X.clone()
OTHER[3, 0, 2, 2] += 1


class Held(Dataset):
    """Items as they are made of an image and its label, wherever they are held."""

    def __init__(self, **held):
        vars(self).update(held)

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
    """Return a kind of set whose items have half of the label that they had."""

    class Halved(kind):
        def __getitem__(self, place):
            image, label = super().__getitem__(place)
            return image, label // 2

        def __getitems__(self, places):
            return [self[place] for place in places]

    return Halved


Halved, HalvedTensors = halved(Subset), halved(TensorDataset)


class Changed(ImageSet):
    def __getitem__(self, place):
        return 1 - self.x[place], 0


def in_dictionary(x, y):
    items = {f"item {place}": each for place, each in enumerate(zip(x, y, strict=True))}
    return Held(items=items, read=lambda place: items[f"item {place}"])


def picture(image):
    return Image.fromarray(image[0].numpy())


def listed(x, y, image=lambda image: image):
    return [(image(each), label) for each, label in zip(x, y.tolist(), strict=True)]


def mappings(x, y):
    return [{"image": image, "label": label} for image, label in listed(x, y)]


SETS = {
    "a dictionary": in_dictionary,
    "tuples": listed,
    "arrays": lambda x, y: listed(x, y, Tensor.numpy),
    "pictures": lambda x, y: listed(x, y, picture),
    "mappings": mappings,
    "pairs": lambda x, y: pairs(mappings(x, y)),
    "tensors": TensorDataset,
    "images": lambda x, y: ImageSet(x, y, 3, "any"),
    "some": lambda x, y: Subset(in_dictionary(x, y), range(6)),
    "joined": lambda x, y: ConcatDataset([TensorDataset(x[:2], y[:2]), in_dictionary(x, y)]),
    "joined tensors": lambda x, y: ConcatDataset([TensorDataset(x[:1], y[:1]), TensorDataset(x[1:], y[1:])]),
    "a set around": lambda x, y: Held(read=Behind(TensorDataset(x, y)).__getattr__("__getitem__")),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETS)
def test_sets_are_alike_where_all_items_are(kind):
    made = [(X, Y), (OTHER, Y), (X, Y.flip(0).roll(1)), (X.flip(0), Y.flip(0)), (X, Y)]
    hashes = [describe_data(SETS[kind](x, y)) for x, y in made]
    assert len({*hashes}) == 4
    assert hashes[0] == hashes[4]
    assert all(each.split()[0] == hashes[0].split()[0] for each in hashes)


@pytest.mark.parametrize(
    "other",
    [
        Mapped(TensorDataset(X, Y)),
        Mapped(ImageSet(X, Y, 3, "any")),
        Halved(TensorDataset(X, Y), range(6)),
        HalvedTensors(X, Y),
        Changed(X, Y, 3, "any"),
        Subset(TensorDataset(X, Y), [0, 1, 2, 3, 5, 4]),
        Subset(Halved(TensorDataset(X, Y), range(6)), range(6)),
        ConcatDataset([Halved(TensorDataset(X, Y), range(6))]),
        TensorDataset(X, Y, torch.arange(6)),
        pairs([(x, int(y), int(y) // 2) for x, y in zip(X, Y, strict=True)], 0, 2),
    ],
)
def test_a_set_of_other_items_is_another(other):
    before = torch.get_rng_state()
    plain = [TensorDataset(X, Y), ImageSet(X, Y, 3, "any"), listed(X, Y)]
    assert describe_data(other) not in map(describe_data, plain)
    assert torch.equal(torch.get_rng_state(), before)


def painted(image, first):
    made = Image.fromarray(image[0].numpy(), "P")
    made.putpalette([first] * 768)
    return made


@pytest.mark.parametrize(
    "item",
    [
        lambda k, change: {"image" if change else "picture": X[k], "label": 0},
        lambda k, change: (painted(X[k], 9 if change else 0), 0),
        lambda k, change: (X[k], 0, *(("1", "23") if change else ("12", "3"))),
        lambda k, change: (X[k].float() if change else X[k].int(), 0),
        lambda k, change: (X[k].numpy(), b"a" if change else b"b"),
    ],
    ids=["keys", "palettes", "texts", "types", "bytes"],
)
def test_items_that_differ_in_one_thing_are_others(item):
    first, second, again = ([item(k, change) for k in range(6)] for change in (False, True, False))
    assert describe_data(first) == describe_data(again) != describe_data(second)


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


def test_other_parts_of_one_set_are_others():
    whole = TensorDataset(X, Y)
    parts = [Subset(whole, order) for order in ([0, 1, 2], [0, 1, 3], [1, 0, 2])]
    joined = [ConcatDataset([whole, part]) for part in parts]
    assert len({describe_data(part) for part in (*parts, *joined)}) == 6
    assert describe_data(parts[0]) == describe_data(Subset(whole, torch.arange(3)))


def test_labels_of_parts_are_those_of_their_sets():
    parts = [Subset(Telling(), [5, 1]), TENSORS, Subset(Subset(TENSORS, [2, 4]), [1])]
    joined = ConcatDataset([*parts, pairs(Telling(), 0, 1)])
    assert known_labels(joined).tolist() == [int(label) for _, label in joined]


def test_of_a_random_transform_the_items_follow_a_seed():
    noisy, other = (Held(read=lambda k, by=by: (X[k] + by * torch.rand(1, 4, 4), int(Y[k]))) for by in (1, 2))
    assert describe_data(noisy) == describe_data(noisy) != describe_data(other)


@dataclass
class Boxed:
    image: Tensor


OWN = torch.Generator().manual_seed(0)
UNKNOWN = {
    "drawn": lambda: Held(read=lambda place: (X[place] + torch.rand(1, generator=OWN), 0)),
    "objects": lambda: [Boxed(x) for x in X],
    "many": lambda: [(x, 0) for x in X],
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_unknown_is_named_by_the_caller(kind, monkeypatch):
    monkeypatch.setattr(content, "READ", 5 if kind == "many" else 6)
    dataset = UNKNOWN[kind]()
    with pytest.raises(InputError, match=r"identity: expected a text .* or give the set a `data_hash`"):
        describe_data(dataset)
    assert describe_data(dataset, "mine, version 1") == "6 of the identity"
    assert describe_shared(dataset) == "6 unread"
    assert kind != "many" or pairs(dataset, 0, 1).describe()["data_hash"] is None
    told = Held(data_hash="mine", read=None)
    assert describe_data(told) == "6 mine"
