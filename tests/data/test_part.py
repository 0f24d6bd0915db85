"""A part of a set has the proportions of the set, whatever kind of set it is and whoever takes the part."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import fastadv as fa
from fastadv.data.given import as_dataset
from fastadv.data.sampling import first_samples, part_of

image = pytest.importorskip("PIL.Image")
SIZES, COUNT, SHARES = (66, 44), 20, [12, 8]  # only a little out of balance
Y = torch.arange(2).repeat_interleave(torch.tensor(SIZES))
X = torch.zeros(len(Y), 3, 32, 32)


class First(torch.nn.Linear):  # says class 0 of every image
    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)) + 1, 0 * x.mean((1, 2, 3))], 1) + 0 * self.weight.sum()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder to load, and its images as they are on disk: black ones."""
    root = tmp_path_factory.mktemp("pets")
    for number, label in enumerate(Y.tolist()):
        path = root / "test" / "ab"[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (32, 32)).save(path)
    return root


def folder(files):
    return fa.data.load("imagefolder", "test", data_dir=files)


DATA, PAIRS = fa.data.ImageSet(X, Y, 2, "held"), TensorDataset(X, Y)
KINDS = {  # also those that say nothing of their order
    "ImageSet": lambda _: DATA,
    "(x, y)": lambda _: (X, Y),
    "loader": lambda _: DataLoader(PAIRS, 16),
    "subset": lambda _: Subset(PAIRS, range(len(Y))),
    "pairs": lambda _: fa.data.pairs(PAIRS, 0, 1),
    "targets": lambda _: Told(PAIRS),
    "folder": folder,
    "folder in memory": lambda files: folder(files).in_memory(),
    "two parts": lambda files: ConcatDataset([folder(files).subset(k) for k in torch.arange(110).split(50)]),
    "loader of a folder": lambda files: DataLoader(folder(files), 16),
    "pairs of a folder": lambda files: fa.data.pairs(folder(files), 0, 1),
    "corrupted folder": lambda files: fa.data.corrupted(folder(files), "brightness", 1),
}
FGSM, NET, NETS = partial(fa.attacks.fgsm, threat=fa.Linf(0.01)), First(1, 1), {"": First(1, 1)}
STANDARD = partial(fa.train.fit, NET, DATA, "standard", epochs=1, learning_rate=1e-9)
FEW = fa.train.Measuring(test_limit=COUNT)
PATHS = {  # each returns the share of the first class in the part that it takes
    "evaluate": lambda data: fa.evaluate(NET, data, limit=COUNT).clean_accuracy,
    "a curve": lambda data: fa.accuracy_against_radius(NET, data, lambda _: FGSM, [0], limit=COUNT).at(0),
    "transferability": lambda data: fa.transferability(NETS, NETS, data, FGSM, limit=COUNT).right / COUNT,
    "smooth": lambda data: (fa.certify.smooth(NET, data, 0.1, n0=2, n=2, limit=COUNT).y == 0).float().mean(),
    "fit": lambda data: STANDARD(test_set=as_dataset(data), measuring=FEW)[-1].clean_accuracy,
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_takes_a_part_with_the_proportions_of_the_set(path, files, logged):
    for kind in ("ImageSet", "(x, y)", "loader of a folder"):
        logged.records.clear()
        assert float(PATHS[path](KINDS[kind](files))) == pytest.approx(SHARES[0] / COUNT), kind
        assert logged.text.count("drawn by class") == 1, kind


class Told(list):
    """A set of one's own, which tells its labels."""

    targets = Y.numpy().astype(np.uint16)


class Unread(Told):
    def __getitem__(self, place):
        torch.rand(1)
        raise RuntimeError("an image that nobody asked for")


def test_all_kinds_of_a_set_give_the_same_samples(files):
    parts = {kind: first_samples(as_dataset(make(files)), COUNT) for kind, make in KINDS.items()}
    before = torch.get_rng_state()
    parts["unread"] = first_samples(Unread(PAIRS), COUNT)
    assert all(torch.equal(part, parts["ImageSet"]) for part in parts.values())
    assert torch.equal(torch.get_rng_state(), before)


def turned(kind):
    """A kind of set whose items have other labels than those that it tells."""

    class Turned(kind):
        def __getitem__(self, place):
            image, label = super().__getitem__(place)
            return image, 1 - int(label)

        def __getitems__(self, places):
            return [self[place] for place in places]

    return Turned


class Named(Told):
    def __getitem__(self, place):
        image, label = super().__getitem__(place)
        return {"image": image, "label": 1 - int(label)}


class Behind:
    """Hands on what it is asked for, but items."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __getitem__(self, place):
        image, label = self.inner[place]
        return image, 1 - int(label)


WHOLE, TRANSFORM = range(len(Y)), {"target_transform": staticmethod(lambda label: 1 - label)}
OTHERWISE = {
    "own": turned(Told)(PAIRS),
    "handed on": Behind(Told(PAIRS)),
    "subset": turned(Subset)(PAIRS, WHOLE),
    "subset of another": Subset(turned(Subset)(PAIRS, WHOLE), WHOLE),
    "tensors": turned(TensorDataset)(X, Y),
    "two parts": ConcatDataset([PAIRS, turned(TensorDataset)(X, Y)]),
    "transform": type("Transformed", (Told,), TRANSFORM)(PAIRS),
    "mappings": Subset(fa.data.pairs(Named(PAIRS)), WHOLE),
    "too few": type("Short", (Told,), {"targets": Y[:-1].tolist()})(PAIRS),
    "floats": TensorDataset(X, Y.float()),
    "none": list(PAIRS),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_labels_that_items_do_not_have_are_not_taken(kind):
    assert torch.equal(first_samples(OTHERWISE[kind], COUNT), torch.arange(COUNT))


@pytest.mark.parametrize("kind", ["ImageSet", "folder", "corrupted folder"])
def test_a_part_says_in_its_note_that_it_was_drawn_and_is_a_sorted_set_again(kind, files):
    whole = KINDS[kind](files)
    part, loaded = part_of(whole, 50), fa.data.load("imagefolder", "test", data_dir=files, limit=50)
    assert part.labels.bincount().tolist() == [30, 20]
    assert "50 of 110 images, drawn by class, each by its share, with seed 0" in part.note
    assert part_of(part, COUNT).labels.bincount().tolist() == SHARES
    assert "109 of 110 images, drawn by class" in part_of(whole, 109).note
    assert part_of(whole, None) is part_of(whole, 500) is whole
    assert torch.equal(loaded.labels, part.labels)


def test_sets_with_an_order_of_their_own_keep_their_first_images(files):
    assert part_of(fa.data.load("digits"), COUNT).note == ""
    shuffled = folder(files).subset(torch.randperm(len(Y), generator=torch.Generator().manual_seed(0)))
    assert torch.equal(first_samples(shuffled, COUNT), torch.arange(COUNT))


def test_of_more_classes_than_samples_any_may_be_among_them():
    many = first_samples(TensorDataset(torch.zeros(400, 1), torch.arange(100).repeat_interleave(4)), 20)
    assert len((many // 4).unique()) == 20
    assert int((many // 4).max()) > 50


def test_a_table_says_that_its_samples_are_drawn():
    in_turn = torch.arange(len(Y)) % 2
    for y, limit, drawn in ((Y, COUNT, True), (Y, None, False), (in_turn, COUNT, False)):
        assert ("drawn by class" in str(fa.evaluate(NET, (X, y), limit=limit, batch_size=5))) == drawn
    assert "drawn by class" in str(fa.evaluate(First(1, 1), (X, Y), limit=109)), "all samples but one"
