"""What a run is fed: the same images for any batch size, device, storage and number of workers."""

import inspect
import multiprocessing
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from fastadv import rng
from fastadv.data import ImageSet, Mixture
from fastadv.train import Execution, Optimization, _feed, epochs, fit
from fastadv.train._feed import Feed
from fastadv.train.augment import cutout, make_augment
from tests.data.test_kinds import files
from tests.refusals import refuses

from .nets import grouped, images, net

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
AUGMENTS = {
    "none": None,
    "crop_flip": "crop_flip",
    "all": ["crop", "flip", partial(cutout, size=3, fill=0.4)],
    "own": ["crop", lambda x, *, ids, seed: (x + ids[:, None, None, None] / 100).clamp(0, 1)],
}


def color(n=23, eight_bit=True, height=9, width=7):
    x = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))
    return ImageSet((x * 255).to(torch.uint8) if eight_bit else x, torch.arange(n) % 3, 3, "color")


def by_id(feed, epoch, done=0):
    parts = list(feed.batches(epoch, done))
    order = [i for *_, ids in parts for i in ids.tolist()]
    rows = [(image.cpu(), int(label)) for x, y, _ in parts for image, label in zip(x, y, strict=True)]
    return dict(zip(order, rows, strict=True)), order


@pytest.mark.parametrize(
    ("kind", "augment"),
    [("bytes", "none"), ("bytes", "own"), ("floats", "crop_flip"), ("mixture", "all"), ("disk", "all")],
)
def test_each_sample_is_augmented_as_if_alone_whatever_the_batch_and_where_an_epoch_is_taken_up(
    kind, augment, on_disk
):
    sets = {"bytes": color, "floats": partial(color, eight_bit=False), "mixture": mixture}
    dataset, augmentation = sets[kind]() if kind in sets else on_disk, make_augment(AUGMENTS[augment])
    feeds = [Feed(dataset, size, augmentation, 3, CPU) for size in (1, 4, 23, 50)]
    if kind != "mixture":  # whose orders are its own
        assert feeds[0].order(2).equal(rng.permutation(23, rng.derive(3, "order", 2)))
    for feed in feeds:
        rows, order = by_id(feed, 2)
        assert order == feeds[0].order(2).tolist()
        for i, (image, label) in rows.items():
            x = dataset[i][0][None]
            if augmentation is not None:
                x = augmentation(x, ids=torch.tensor([i]), seed=3, epoch=2)
            assert image.dtype == torch.float32
            assert torch.equal(image, x[0])
            assert label == dataset[i][1]
    whole, rest = (list(feeds[1].batches(2, done)) for done in (0, 2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", [AUGMENTS["crop_flip"], AUGMENTS["all"]])
def test_the_device_changes_nothing(augment):
    feeds = [Feed(color(), 5, make_augment(augment), 3, torch.device(place)) for place in ("cpu", "cuda")]
    rows, others = (by_id(feed, 2)[0] for feed in feeds)
    assert all(
        torch.equal(image, others[i][0]) and label == others[i][1] for i, (image, label) in rows.items()
    )
    assert all(x.is_cuda and ids.is_cuda for x, _, ids in feeds[1].batches(2))


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    return files(tmp_path_factory.mktemp("images"), color().x, color().y)


def test_what_a_function_draws_from_torch_is_fresh_in_each_step_and_the_same_where_an_epoch_is_taken_up():
    drawn = []

    def noisy(x, *, ids, seed):
        noise = torch.rand(x.shape)
        drawn.append(float(noise.sum()))
        return (x + noise).clamp(0, 1)

    feed = Feed(color(), 5, make_augment(["crop", noisy]), 3, CPU)
    list(feed.batches(1))
    torch.manual_seed(1)
    whole = list(feed.batches(2))
    assert len(set(drawn)) == len(drawn) == 10
    torch.manual_seed(2)
    for one, other in zip(whole[2:], feed.batches(2, 2), strict=True):
        assert torch.equal(one[0], other[0])


def test_on_a_gpu_one_batch_of_many_is_read(monkeypatch):
    monkeypatch.setattr(_feed, "waits", lambda device: True)
    augment = make_augment(lambda x, *, ids, seed: x + (5 in ids))
    small, whole = (Feed(images(10), size, augment, 0, CPU, within=(0, 1)) for size in (1, 10))
    assert len([*small.batches(1)]) == 10 > small.order(1).tolist().index(5) > 0
    refuses("augment: expected pixels", next, whole.batches(1))


def test_what_does_not_fill_a_step_is_left_out_and_is_another_in_each_epoch():
    left = []
    feed = Feed(images(26), 8, None, 0, CPU, drop_last=True)
    assert (feed.steps, feed.epoch_size) == (3, 24)
    for epoch in (1, 2):
        ids = torch.cat([ids for _, _, ids in feed.batches(epoch)])
        assert len(ids) == len(set(ids.tolist())) == 24
        left.append(set(range(26)) - set(ids.tolist()))
    assert left[0] != left[1]
    drop = {"epochs": 1, "batch_size": 64, **grouped(drop_last=True)}
    refuses("drop_last: expected at least the 64 images of a step", fit, net(), images(), loss, **drop)


class Placed(Dataset):
    """Images that hold the number of the worker that read them, from 1; 0 where none did."""

    def __len__(self):
        return 8

    def __getitem__(self, position):
        worker = get_worker_info()
        return torch.full((1, 2, 2), 0 if worker is None else worker.id + 1, dtype=torch.uint8), 0


def loss(model, x, y, *, ids=None, seed=0):
    return torch.nn.functional.cross_entropy(model(x), y)


def mixture():
    return Mixture(images(30), images(40, seed=1), 0.7)


def test_an_epoch_of_a_mixture_is_as_long_as_the_real_set():
    seen, ticks = [], []

    def recipe(model, x, y, *, ids, seed):
        seen.append((x.clone(), y, ids))
        return loss(model, x, y)

    dataset = mixture()
    options = {"batch_size": 10, "augment": "crop", "seed": 5, "device": "cpu"}
    fit(net(), dataset, recipe, epochs=2, progress=lambda *at: ticks.append(at), **options)
    assert ticks == [(k, 6) for k in range(1, 7)]
    for epoch, steps in ((1, seen[:3]), (2, seen[3:])):
        x, y, ids = map(torch.cat, zip(*steps, strict=True))
        assert torch.equal(ids, dataset.epoch_order(rng.derive(5, "order"), epoch))
        clean = torch.stack([dataset[int(i)][0] for i in ids])
        assert torch.equal(x, make_augment("crop")(clean, ids=ids, seed=5, epoch=epoch))
        assert torch.equal(y, dataset.labels[ids])


@pytest.mark.slow
def test_what_reads_ahead_lives_from_epoch_to_epoch_and_ends_with_the_run():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    run = epochs(model, Placed(), loss, epochs=3, execution=Execution(workers=1))
    next(run)
    (reader,) = multiprocessing.active_children()
    next(run)
    assert multiprocessing.active_children() == [reader]
    list(run)
    assert not multiprocessing.active_children()


class Drawn(TensorDataset):
    def __getitem__(self, place):
        return torch.rand(4), place % 2


def seen_of(loader, **options):
    """The images of three epochs on a loader, and the sizes of their steps."""
    steps = []

    def spy(model, x, y, *, ids=None, seed=0):
        steps.append(x.clone())
        return loss(model, x, y)

    fit(nn.Linear(4, 2), loader, spy, epochs=3, **options)
    return len(torch.cat(steps).unique(dim=0)), [len(x) for x in steps[: len(steps) // 3]]


def test_each_epoch_reads_the_set_of_a_loader_anew():
    data = Drawn(torch.zeros(12))
    batches = torch_data.BatchSampler(torch_data.RandomSampler(data), 5, False)
    assert seen_of(DataLoader(data, 5, shuffle=True)) == (36, [5, 5, 2])
    assert seen_of(DataLoader(data, 5, shuffle=True, drop_last=True)) == (30, [5, 5])
    assert seen_of(DataLoader(data, batch_sampler=batches)) == (36, [5, 5, 2])
    assert seen_of(DataLoader(data, 5), optimization=Optimization(drop_last=True)) == (30, [5, 5])
    assert seen_of(DataLoader(data, 5, sampler=torch_data.SubsetRandomSampler(range(6)))) == (18, [5, 1])


def test_a_loader_that_is_read_once_is_told():
    data = Drawn(torch.zeros(12))
    weighted = DataLoader(data, 5, sampler=torch_data.WeightedRandomSampler(torch.ones(12), 12))
    for loader in (weighted, DataLoader(data, 5, collate_fn=lambda items: torch_data.default_collate(items))):
        with pytest.warns(UserWarning, match="train_set: this DataLoader has a sampler .* once") as warned:
            assert seen_of(loader) == (12, [5, 5, 2])
        place = inspect.getsourcelines(seen_of)
        assert (warned[0].filename, warned[0].lineno) == (__file__, place[1] + len(place[0]) - 2)
