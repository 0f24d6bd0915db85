"""What callers hand over as data becomes one set; what cannot is refused in words."""

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset
from torch.utils.data import SubsetRandomSampler as Some

import fastadv as fa
from fastadv.data.given import as_dataset
from tests.refusals import refuses

X, Y = torch.rand(11, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.arange(11) % 3
PAIRS = TensorDataset(X, Y)
BATCHES = [(X[:4], Y[:4]), [X[4:5], Y[4:5]], (X[5:], Y[5:])]


@pytest.mark.parametrize(
    "data",
    [
        PAIRS, (X, Y), [X, Y], BATCHES, tuple(BATCHES), iter(BATCHES), list(zip(X, Y.tolist(), strict=True)),
        list(zip(X, Y, strict=True)), DataLoader(PAIRS, 4), DataLoader(PAIRS, 4, shuffle=True),
        DataLoader(PAIRS, batch_sampler=[range(4), range(4, 11)]),
    ],
)  # fmt: skip
def test_all_forms_are_the_same_set(data):
    dataset = as_dataset(data)
    assert len(dataset) == 11
    for place in range(11):
        image, label = dataset[place]
        assert torch.equal(image, X[place])
        assert int(label) == int(Y[place])


def test_a_loader_that_reads_its_set_once_is_not_read():
    for shuffle in (False, True):
        assert as_dataset(DataLoader(PAIRS, 4, shuffle=shuffle)) is PAIRS
    assert as_dataset(DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, False))) is PAIRS
    for places in ([1, 7], np.array([1, 7]), torch.tensor([1, 7])):  # a number of NumPy has no identity
        part = as_dataset(DataLoader(PAIRS, 4, sampler=Some(places)))
        assert (part.dataset, part.indices) == (PAIRS, [1, 7])


def test_two_streams_of_random_images_differ():
    held = [as_dataset((torch.rand(5, 4), torch.arange(5)) for _ in range(2)) for _ in range(2)]
    assert not torch.equal(held[0].tensors[0], held[1].tensors[0])


@pytest.mark.parametrize(
    ("loader", "count"),
    [
        (DataLoader(PAIRS, 4, drop_last=True), 8),
        (DataLoader(PAIRS, batch_sampler=BatchSampler(SequentialSampler(PAIRS), 4, True)), 8),
        (DataLoader(PAIRS, 4, sampler=RandomSampler(PAIRS, replacement=True)), 11),
        (DataLoader(PAIRS, 4, sampler=RandomSampler(PAIRS, num_samples=5)), 5),
        (DataLoader(PAIRS, 4, collate_fn=lambda items: (torch.zeros(len(items), 2), Y[: len(items)])), 11),
    ],
)
def test_any_other_loader_is_read_as_it_is(loader, count):
    before, dataset = torch.get_rng_state(), as_dataset(loader)
    assert dataset is not PAIRS
    assert len(dataset) == count
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # whatever was drawn before, the order is the same
    assert torch.equal(dataset.tensors[1], as_dataset(loader).tensors[1])


def test_images_of_several_dtypes_are_joined_as_torch_joins_them():
    parts = [(X[:2].to(dtype), Y[:2]) for dtype in (torch.uint8, torch.float64, torch.float32)]
    assert torch.equal(as_dataset(parts).tensors[0], torch.cat([x for x, _ in parts]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (iter([X, Y]), r"batches \(x \[B, ...\], y int \[B\]\), got torch.float32 \(11, 1, 3, 3\)"),
        ((X, Y.float()), r"got \(torch.float32 \(11, 1, 3, 3\), torch.float32 \(11,\)\)"),
        ((X, Y[:4]), "expected batches"),
        ((X[0], Y[0]), r"add a batch dimension: \(x\[None\], y\[None\]\)"),
        ((X.numpy(), Y.numpy()), r"\(x, y\) as tensors, got \(ndarray, ndarray\); use torch.as_tensor"),
        (iter([(X, Y), (X[..., :2], Y)]), "images of one shape"),
        (iter([]), "got no batch"),
        (7, "expected a data set with a length"),
    ],
)
def test_what_is_no_data_is_refused(data, said):
    refuses(said, fa.evaluate, fa.models.create("softmax", shape=(1, 3, 3), classes=3), data)


@pytest.mark.parametrize("size", [5, 6])
def test_a_list_of_two_batches_of_images_is_two_batches_and_a_tuple_a_pair(size):
    batches = [X[:5], X[-size:]]
    table = fa.evaluate(torch.nn.Flatten(), batches, criterion=fa.attacks.Beyond(0.5))
    assert table.n == len(dataset := as_dataset(batches, labels="any")) == 5 + size
    assert torch.equal(torch.stack([item[0] for item in dataset]), torch.cat(batches))
    refuses("expected batches .*y int", as_dataset, batches)
    if size == 5:
        assert all(map(torch.equal, as_dataset(tuple(batches), labels="any")[0], (X[0], X[6])))
    for y in (torch.zeros(4, 5), torch.zeros(4).long(), torch.zeros(4, 3, 3).long()):
        assert len(as_dataset([X[:4], y], labels="any")) == 4
    assert len(as_dataset([X[:4, 0, 0], X[4:8, 0, 0]], labels="any")) == 4  # inputs and outputs of one size
