"""Which samples stand for a set: shares of classes by hand, sorted sets, and what a seed decides."""

from functools import partial

import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from fastadv.data import ImageSet, hold_out
from fastadv.data.sampling import first_samples, sample_count
from tests.refusals import refuses


def of(labels):
    y = torch.as_tensor(labels)
    return ImageSet(torch.zeros(len(y), 1, 2, 2), y, int(y.max()) + 1, "made")


def in_order(*sizes):
    return of([k for k, size in enumerate(sizes) for _ in range(size)])


def counts(labels):
    return torch.bincount(labels).tolist()


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ((50, 30, 20), 10, [5, 3, 2]),
        ((90, 6, 4), 10, [9, 1]),
        ((97, 2, 1), 9, [9]),
        ((2, 2, 2), 3, [1, 1, 1]),
        ((5,), 2, [2]),
        ((1, 9), 5, [0, 5]),
    ],
)
def test_every_class_is_held_out_by_its_share(sizes, count, shares):
    rest, held_out, about = hold_out(in_order(*sizes), count, seed=3)
    assert counts(held_out.labels) == shares
    assert counts(torch.cat([rest.labels, held_out.labels])) == list(sizes)
    assert (about["count"], about["method"], about["seed"]) == (count, "permutation by class", 3)
    assert about["digest"] in held_out.describe()["note"]
    assert "seed 3" in held_out.note


def test_the_choice_follows_from_the_seed_and_every_image_is_on_one_side():
    x = torch.arange(60.0).reshape(60, 1, 1, 1).expand(60, 1, 2, 2) / 60
    dataset = ImageSet(x.contiguous(), torch.arange(60) // 20, 3, "made", note="sorted")
    first, again, other = (hold_out(dataset, 15, seed) for seed in (1, 1, 2))
    assert torch.equal(first.held_out.x, again.held_out.x)
    assert first.about == again.about
    assert first.about["digest"] != other.about["digest"]
    assert torch.equal(torch.cat([first.rest.x, first.held_out.x])[:, 0, 0, 0].sort().values, x[:, 0, 0, 0])
    assert first.held_out.note.startswith("sorted; 15 of 60 images")
    held, y = first.held_out.x[:, 0, 0, 0] * 60, first.held_out.y
    assert len({tuple((held[y == k] - 20 * k).tolist()) for k in range(3)}) == 3  # of each class another part


class Unlabeled(ImageSet):
    labels = property(lambda self: None, lambda self, value: None)

    def __len__(self):
        return len(self.y)

    def subset(self, positions):
        return self._with(self.x[positions], self.y[positions])


def test_without_known_labels_images_are_held_out_at_random():
    dataset = Unlabeled(torch.arange(60.0).reshape(60, 1, 1, 1) / 60, torch.arange(60) // 20, 3, "made")
    (rest, held_out, about), other = hold_out(dataset, 15, 1), hold_out(dataset, 15, 2)
    assert about["method"] == "permutation"
    assert torch.equal(torch.cat([rest.x, held_out.x]).flatten().sort().values, dataset.x.flatten())
    assert len(held_out.y.unique()) == 3
    assert not torch.equal(held_out.x, other.held_out.x)


def test_a_part_is_neither_empty_nor_the_whole():
    refuses("fewer than the 30 images, got 30", hold_out, in_order(10, 10, 10), 30)
    refuses("count: expected an integer >= 1", hold_out, in_order(10, 10, 10), 0)


@pytest.mark.parametrize(
    "labels",
    [
        torch.arange(100) % 10,
        torch.arange(100) % 50,
        torch.tensor([0, 1] * 8 + [0] * 84),
        torch.zeros(100).long(),
    ],
    ids=["in turn", "many classes", "in turn, a small class", "one class"],
)
def test_the_first_samples_of_other_sets_are_taken(logged, labels):
    for count in (1, 7, 20, 60, 100, 1000):
        assert torch.equal(first_samples(of(labels), count, tell=True), torch.arange(min(count, 100)))
    assert not logged.records


def test_the_first_of_two_sets_joined_do_not_stand_for_the_second(logged):
    joined = of([0, 1] * 200 + [2, 3] * 200)
    assert counts(joined.y[first_samples(joined, 100, tell=True)]) == [25] * 4
    assert "looks sorted" in logged.text


def test_two_of_each_class_in_order_are_sorted():
    dataset = in_order(2, 2, 2)
    assert counts(dataset.y[first_samples(dataset, 3)]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("dataset", "got"),
    [
        ([], "an empty one or one without a length"),
        (TensorDataset(torch.zeros(0, 1), torch.zeros(0).long()), "an empty one"),
        (Subset(in_order(3), []), "an empty one"),
        (type("Endless", (), {"__getitem__": lambda self, k: (torch.zeros(1), 0)})(), "without a length"),
        (type("Stream", (IterableDataset,), {"__len__": lambda self: 5, "__iter__": None})(), "Stream"),
        ({0, 1}, "set"),
    ],
)
def test_a_set_that_is_empty_or_unnumbered_is_refused(dataset, got):
    for use in (sample_count, partial(sample_count, limit=2), first_samples, partial(hold_out, count=1)):
        refuses(f"expected a data set with a length, .* one image, got .*{got}", use, dataset)
    for limit in (0, -1, 1.5, True):
        refuses("limit: expected an integer >= 1", sample_count, in_order(3), limit)
