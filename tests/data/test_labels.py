"""Labels that are probabilities: what is refused, and which sets keep them."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import fastadv as fa
from fastadv.data import ImageSet, Mixture, NpzSet, batches, hold_out, pairs
from fastadv.data._batches import Reader
from fastadv.data._labels import check_labels
from fastadv.errors import InputError
from tests.data.sets import random_target, toy_base, toy_model

N, K = 11, 3


def soft(n=N, seed=0):
    return torch.randn(n, K, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(1)


def made(y, n=N):
    return ImageSet(torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1)), y, K, "made")


def read(dataset, order=None, *, keep=True):
    parts = Reader(dataset, 4, soft=keep).batches(order)
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_of_each_type_are_taken(dtype):
    y = torch.randn(50, 100, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    taken = check_labels(y, "y")
    assert taken.dtype == torch.float32
    assert taken.equal(y.float())


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ([0.5, 0.25, 0.25005], None),
        ([0.5, 0.25, 0.251], r"sum is 1, got 0.25 to 0.5 with the sum 1.001 in row 1; take logits.softmax"),
        ([1.2, -0.2, 0.0], "got -0.2 to 1.2 .* in row 1"),
        ([0.0, 0.0, 0.0], "with the sum 0 in row 1"),
        ([float("nan"), 0.5, 0.5], "set: expected finite probabilities"),
        ([float("inf"), 0.0, 0.0], "set: expected finite probabilities"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(row, match):
    y = torch.tensor([[0.0, 1.0, 0.0], row])
    if match is None:
        assert check_labels(y, "set").equal(y)
        return
    with pytest.raises(InputError, match=match):
        check_labels(y, "set")


def test_a_set_keeps_its_probabilities_and_is_judged_by_the_likeliest_class():
    y = soft()
    dataset, hard = made(y), made(y.argmax(1))
    assert dataset.labels.equal(y.argmax(1))
    assert dataset.y.equal(dataset.labels)
    assert dataset.probabilities.equal(y)
    assert dataset[-1][1].equal(y[-1])
    assert len(list(dataset)) == N
    order = torch.tensor([9, 2, 2, 0, 7])
    assert read(dataset, order)[1].equal(y[order])
    assert read(dataset.subset(order))[1].equal(y[order])
    assert read(dataset.to("cpu"))[1].equal(y)
    assert read(hard)[1].equal(y.argmax(1))
    for one, other in zip(batches(dataset, 4), batches(hard, 4), strict=True):
        assert all(map(torch.equal, one, other))
    assert dataset.data_hash not in (hard.data_hash, made(soft(seed=2)).data_hash)
    assert dataset.relabeled(dataset.labels).data_hash == hard.data_hash == hard.relabeled(hard.y).data_hash
    assert hard.relabeled(y).data_hash == dataset.data_hash
    assert hold_out(dataset, 4).about == hold_out(hard, 4).about
    assert hold_out(dataset, 4).held_out.soft
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, K))
    assert fa.evaluate(model, dataset).to_dict()["clean_accuracy"] == fa.evaluate(model, hard).clean_accuracy
    with pytest.raises(InputError, match=r"expected classes as labels, got probabilities; .*relabeled"):
        dataset.only([0, 1])


def test_a_constructed_set_stays_mapped_when_it_is_relabeled(tmp_path):
    built = random_target(toy_model(), toy_base(20), steps=1, shard_size=8, out_dir=tmp_path)
    y = torch.rand(20, built.num_classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    taught = built.relabeled(y)
    assert taught._rows is built._rows
    x, labels, ids = read(taught)
    assert labels.equal(y)
    assert x.equal(built.x[ids])


@pytest.mark.parametrize("label", [list, lambda row: row, lambda row: row.numpy(), lambda row: row.double()])
def test_map_style_sets_and_mappings_give_probabilities(label):
    y = soft()
    rows = [{"image": torch.rand(1, 4, 4), "label": label(row)} for row in y]
    if label is list:
        rows = [row | {"label": [float(each) for each in row["label"]]} for row in rows]
    dataset = pairs(rows)
    assert read(dataset)[1].equal(y)
    assert read(dataset, keep=False)[1].equal(y.argmax(1))


def save(path, label, seed=0):
    noise = np.random.default_rng(seed)
    np.savez(path, image=noise.integers(0, 256, (len(label), 4, 4, 1), dtype=np.uint8), label=label)


def test_files_and_mixtures_hold_probabilities(tmp_path):
    y = soft()
    save(tmp_path / "a.npz", y[:4].numpy())
    save(tmp_path / "b.npz", y[4:].double().numpy())
    generated = NpzSet(tmp_path)
    assert (generated.num_classes, generated.labels.tolist()) == (K, y.argmax(1).tolist())
    assert read(generated)[1].equal(y)
    assert read(generated.to("cpu"))[1].equal(y)
    real = made(torch.arange(5) % K, 5)
    order = torch.tensor([7, 0, 15, 4, 5])
    wanted = torch.cat([one_hot(real.y, K).float(), y])[order]
    for first, second in ((real, generated), (real.relabeled(one_hot(real.y, K).float()), generated)):
        mixture = Mixture(first, second, 0.5)
        assert mixture.soft
        assert read(mixture, order)[1].equal(wanted)
        assert read(mixture, order, keep=False)[1].equal(wanted.argmax(1))
    assert not Mixture(real, made(torch.arange(N) % K), 0.5).soft
    with pytest.raises(InputError, match="generated: expected probabilities of 4 classes, got 3"):
        Mixture(ImageSet(real.x, real.y, 4, "four"), generated, 0.5)
    save(tmp_path / "c.npz", np.arange(3))
    with pytest.raises(InputError, match=r"labels of one kind in all files, got shapes \[\(\), \(3,\)\]"):
        NpzSet(tmp_path)
    save(tmp_path / "d.npz", np.ones((3, 3), np.int64))
    with pytest.raises(InputError, match="integers, one for each image, or rows of probabilities"):
        NpzSet(tmp_path / "d.npz")
    with pytest.raises(InputError, match="a: expected probabilities of 4 classes, got 3"):
        NpzSet(tmp_path / "a.npz", 4)
