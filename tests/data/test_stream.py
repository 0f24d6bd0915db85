"""Streams: every image once in an epoch, and clear errors where one ends early or is damaged."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import fastadv as fa
from fastadv.data import Stream
from fastadv.errors import InputError
from tests.train.nets import images

DATA = images(23)


class Shards(IterableDataset):
    """Single images in an order of their own."""

    def __iter__(self):
        return iter([(DATA.x[i], int(DATA.y[i])) for i in range(22, -1, -1)])


def chunks(*sizes, label=lambda y: y):
    """Batches of these sizes, from first to last."""
    return lambda epoch: [
        (x, label(y)) for x, y in zip(DATA.x.split(sizes), DATA.y.split(sizes), strict=True)
    ]


def read(stream, batch_size=4, skip=0, epoch=1):
    return list(stream.read(epoch, torch.arange(skip, len(stream)), batch_size, skip))


@pytest.mark.parametrize("sizes", [(23,), (1,) * 23, (10, 1, 12), (2, 9, 9, 3)])
@pytest.mark.parametrize("skip", [0, 4, 12, 20])
def test_batches_are_cut_anew_and_none_is_lost(sizes, skip):
    parts = read(Stream(chunks(*sizes), 23), skip=skip)
    x, y, ids = (torch.cat(each) for each in zip(*parts, strict=True))
    assert torch.equal(x, DATA.x[skip:])
    assert torch.equal(y, DATA.y[skip:])
    assert ids.tolist() == list(range(skip, 23))
    assert [len(part[1]) for part in parts[:-1]] == [4] * (len(parts) - 1)


def test_loaders_and_mappings_are_streams_and_what_is_too_much_is_left():
    loader = DataLoader(Shards(), batch_size=7)
    for source in (loader, Shards(), lambda epoch: loader):
        y = torch.cat([y for _, y, _ in read(Stream(source, 20))])
        assert torch.equal(y, DATA.y.flip(0)[:20])
    named = [{"data": x[None], "label": y.reshape(1, 1)} for x, y in zip(DATA.x, DATA.y, strict=True)]
    assert torch.equal(read(Stream(named, 23, image="data", label="label"), 23)[0][1], DATA.y)
    epochs = []
    Stream(lambda epoch: epochs.append(epoch) or chunks(23)(epoch), 23).read(7, torch.arange(2), 2).__next__()
    assert epochs == [7]


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def train(stream, **options):
    model = net()
    return model, fa.train.fit(model, stream, fa.train.Standard(), batch_size=5, **{"epochs": 2} | options)


def test_training_says_that_the_order_is_not_promised(tmp_path, logged):
    _, past = train(Stream(Shards(), 23, name="shards"), run_dir=tmp_path)
    assert len(past) == 2
    assert "shards: a stream: its images come in an order of its own" in logged.text
    _, about = fa.models.read_weights(tmp_path / "model.safetensors")
    assert "which no seed fixes" in about["config"]["data"]["note"]
    assert about["config"]["data"]["samples"] == 23


@pytest.mark.parametrize("moving", [{}, {"accumulate": 2, "drop_last": True}])
def test_a_run_is_resumed_within_an_epoch(tmp_path, moving):
    served = []

    def source(epoch):
        for x, y in zip(DATA.x, DATA.y, strict=True):
            served.append(epoch)
            if len(served) == 36:
                raise KeyboardInterrupt
            yield x, int(y)

    moving = {"optimization": fa.train.Optimization(**moving)}
    options = {"run_dir": tmp_path, "execution": fa.train.Execution(checkpoint_every=1), **moving}
    with pytest.raises(KeyboardInterrupt):
        train(Stream(source, 23), **options)
    model, past = train(Stream(source, 23), **options, resume=True)
    assert [report.epoch for report in past] == [2]
    whole, (_, second) = train(Stream(chunks(23), 23), **moving)
    assert past[0].loss == second.loss
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def damaged(x):
    x = x.clone()
    x[-1, 0, 0, 0] = torch.nan
    return x


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (lambda: [(DATA.x[:19], DATA.y[:19])], "23 images in epoch 2, got a stream that ended after 19"),
        (lambda: None, "a function of the epoch that returns a loader .* got one that returns NoneType"),
        (lambda: [(damaged(DATA.x), DATA.y)], "item 0 of epoch 2: expected finite pixels, got NaN"),
        (lambda: [(DATA.x, DATA.y + 9)], "expected labels from 0 to 2"),
        (
            lambda: [(DATA.x[:9], DATA.y[:9]), (DATA.x[9:, :, :7], DATA.y[9:])],
            r"images of one type and shape, got torch.float32 of \[1, 7, 8\], torch",
        ),
    ],
)
def test_what_goes_wrong_in_a_stream_is_said_and_the_checkpoint_kept(tmp_path, second, match):
    stream = Stream(lambda epoch: chunks(23)(1) if epoch == 1 else second(), 23)
    with pytest.raises(InputError, match=match) as caught:
        train(stream, run_dir=tmp_path)
    assert "checkpoint.safetensors is kept" in str(caught.value)
    assert len(fa.train.reports(tmp_path)) == 1
    _, past = train(Stream(chunks(23), 23), run_dir=tmp_path, resume=True)
    assert [report.epoch for report in past] == [2]


def test_what_is_no_stream_or_needs_numbers_is_refused():
    for source in (iter([]), 3):
        with pytest.raises(InputError, match="begins anew in every epoch, got"):
            Stream(source, 3)
    with pytest.raises(InputError, match="samples: expected an integer >= 1"):
        Stream([], 0)
    with pytest.raises(InputError, match="expected 3 images in epoch 1, got a stream that ended after 0"):
        train(Stream([], 3))
    stream = Stream(chunks(23), 23)
    with pytest.raises(InputError, match="workers: expected None for images of a stream"):
        train(stream, execution=fa.train.Execution(workers=1))
    with pytest.raises(InputError, match="numbered images, of which this recipe keeps"):
        fa.train.fit(net(), stream, fa.train.PriorGuidedTraining(fa.Linf(0.1), step_size=0.1), epochs=1)
    for wrong in (DataLoader(DATA), Shards(), stream):
        with pytest.raises(InputError, match="dataset: expected a data set with a length, items by number"):
            fa.evaluate(net(), wrong)
    for wrong in (DataLoader(DATA), Shards(), iter([])):
        with pytest.raises(InputError, match=r"train_set: .* as a fa.data.Stream"):
            train(wrong)
