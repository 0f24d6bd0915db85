"""The same images are one set, whatever holds them: batches, items, parts, and what tells it from others."""

from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, TensorDataset

from fastadv.data import ImageSet, Mixture, NpzSet, batches, construct, content, load, pairs
from fastadv.data.content import describe_data
from fastadv.threat import L2
from tests.refusals import refuses

X = torch.randint(0, 255, (10, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 1])
OTHER = X.clone()
OTHER[3, 0, 2, 1] += 1
NET = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))


def array(image):
    return image.permute(1, 2, 0).numpy()


def held(folder, x, y):
    return ImageSet(x, y, ("cat", "dog", "owl"), "held", note="rare")


def named(folder, x, y, image):
    rows = [{"img": image(each), "fine": label} for each, label in zip(x, y.tolist(), strict=True)]
    return pairs(rows, "img", "fine")


def joined(folder, x, y):
    return ConcatDataset([TensorDataset(x[:2], y[:2]), TensorDataset(x[2:], y[2:])])


def files(folder, x, y):
    """Image files, in the order of their numbers."""
    for place, image in enumerate(x):
        path = folder / "pets" / "train" / "abcdefghij"[y[place]] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array(image)).save(path)
    dataset = load("imagefolder", "train", folder / "pets")
    return dataset.subset(torch.tensor([int(path.stem) for path in dataset.paths]).argsort())


def npz(folder, x, y, save=np.savez, cuts=()):
    folder.mkdir(exist_ok=True)
    for name, part in zip("abc", torch.arange(len(x)).tensor_split(list(cuts)), strict=False):
        save(folder / f"{name}.npz", image=x[part].permute(0, 2, 3, 1).numpy(), label=y[part].numpy())
    return NpzSet(folder, max(3, int(y.max()) + 1))


def mixed(folder, x, y, real=held):
    return Mixture(real(folder, x[:5], y[:5]), npz(folder, x[5:], y[5:]), 0.5)


def mapped(folder, x, y):
    """A constructed set in its folder, of images that did not move."""
    base = ImageSet(x, (y - 1) % 3, 3, "mapped")
    shards = {"out_dir": folder, "shard_size": 4, "dtype": "uint8"}
    return construct.fixed_shift(NET, base, threat=L2(0.0), steps=1, step_size=0.1, **shards)


OURS = {
    "images": held,
    "floats": lambda folder, x, y: held(folder, x / 255, y),
    "files": files,
    "npz": npz,
    "packed npz": partial(npz, save=np.savez_compressed),
    "npz files": partial(npz, cuts=(5,)),
    "mapped": mapped,
    "mixed": mixed,
    "mixed with floats": partial(mixed, real=lambda folder, x, y: held(folder, x / 255, y)),
}
KINDS = OURS | {
    "tensors": lambda folder, x, y: TensorDataset(x, y),
    "tuples": lambda folder, x, y: [*zip(x, y.tolist(), strict=True)],
    "joined": joined,
    "mappings": partial(named, image=lambda image: image),
    "arrays": partial(named, image=array),
    "pictures": partial(named, image=lambda image: Image.fromarray(array(image))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_is_followed_and_numbers_stay_with_their_samples(kind, tmp_path):
    dataset, order = KINDS[kind](tmp_path, X, Y), [7, 2, 2, 9, 0]
    parts = list(batches(dataset, 2, torch.tensor(order)))
    assert all(x.is_contiguous() for x, *_ in parts)
    x, y, ids = (torch.cat(part) for part in zip(*parts, strict=True))
    assert torch.equal(x, X[order].float() / 255)
    assert (y.tolist(), ids.tolist()) == (Y[order].tolist(), order)
    assert (x.dtype, y.dtype, ids.dtype) == (torch.float32, torch.int64, torch.int64)
    assert list(batches(dataset, 2, [])) == []
    x, y, ids = (torch.cat(part) for part in zip(*batches(dataset, 4), strict=True))
    assert torch.equal(x, X / 255)
    assert (y.tolist(), ids.tolist()) == (Y.tolist(), [*range(10)])


@pytest.mark.parametrize("kind", OURS)
def test_items_are_float_images_and_labels_and_a_part_keeps_the_order_asked_for(kind, tmp_path):
    dataset = OURS[kind](tmp_path, X, Y)
    assert (len(dataset), dataset.shape, dataset.num_classes) == (10, (3, 4, 5), 3)
    for place in (*range(10), -1):
        image, label = dataset[place]
        assert (image.dtype, label) == (torch.float32, int(Y[place]))
        assert torch.equal(image, X[place] / 255)
    with pytest.raises(IndexError):
        dataset[10]
    if hasattr(dataset, "take"):
        assert torch.equal(dataset.take(torch.tensor([4, 0, 4])), dataset.take(torch.arange(10))[[4, 0, 4]])
        assert not len(dataset.take(torch.arange(0)))
    if hasattr(dataset, "subset"):
        part = dataset.subset(torch.tensor([4, 0, 4], dtype=torch.int32))
        assert torch.equal(torch.stack([image for image, _ in part]), X[[4, 0, 4]] / 255)
        assert part.labels.tolist() == Y[[4, 0, 4]].tolist()
        assert (part.classes, part.name, part.note) == (dataset.classes, dataset.name, dataset.note)
        refuses("positions from 0 to 9", dataset.subset, [10])
        refuses("at least one", dataset.subset, [])


@pytest.mark.parametrize("kind", KINDS)
def test_sets_are_alike_where_all_items_are(kind, tmp_path):
    before = torch.get_rng_state()
    made = [(X, Y), (OTHER, Y), (X, Y.roll(1)), (X.roll(5, 0), Y.roll(5)), (X[:8], Y[:8]), (X, Y)]
    sets = [KINDS[kind](tmp_path / str(place), x, y) for place, (x, y) in enumerate(made)]
    own = kind in OURS and kind != "files"  # whose own hash reads no image
    for tell in (describe_data, attrgetter("data_hash"))[: 1 + own]:
        hashes = [*map(tell, sets)]
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
        lambda k, change: {"image" if change else "picture": X[k, :1], "label": 0},
        lambda k, change: (painted(X[k, :1], 9 if change else 0), 0),
        lambda k, change: (X[k, :1], 0, *(("1", "23") if change else ("12", "3"))),
        lambda k, change: (X[k, :1].float() if change else X[k, :1].int(), 0),
        lambda k, change: (X[k, :1].numpy(), b"a" if change else b"b"),
        lambda k, change: (Path("a" if change else "b"), 0),
    ],
    ids=["keys", "palettes", "texts", "types", "bytes", "paths"],
)
def test_items_that_differ_in_one_thing_are_others(item):
    one, other, again = ([item(k, change) for k in range(6)] for change in (False, True, False))
    assert describe_data(one) == describe_data(again) != describe_data(other)


def test_of_many_items_some_are_read_from_the_first_to_the_last(monkeypatch):
    monkeypatch.setattr(content, "READ", 10)
    seen = list[int]()
    many = type(
        "Many", (), {"__len__": lambda _: 10**9, "__getitem__": lambda _, k: seen.append(k) or (k, 0)}
    )
    assert describe_data(many()).startswith("1000000000 ")
    assert (len({*seen}), min(seen), max(seen)) == (10, 0, 10**9 - 1)


def test_of_a_random_transform_the_items_follow_a_seed_and_others_count_by_their_number():
    rows, generator = [*range(6)], torch.Generator().manual_seed(0)
    noisy, other = (
        pairs([rows] * 6, 0, 1, transform=lambda _, by=by: by * torch.rand(1, 4, 4)) for by in (1, 2)
    )
    assert describe_data(noisy) == describe_data(noisy) != describe_data(other)
    own = pairs([rows] * 6, 0, 1, transform=lambda _: torch.rand(1, 4, 4, generator=generator))
    assert describe_data(own) == "6 drawn"
