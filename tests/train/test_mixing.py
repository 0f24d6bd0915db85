"""CutMix, MixUp, random windows and colors: by hand, keyed by sample, and what takes mixed labels."""

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import (
    IKL,
    MART,
    SCORE,
    TRADES,
    FastTraining,
    FGSMTraining,
    FreeTraining,
    GradAlign,
    NuAT,
    PGDTraining,
    Standard,
    fit,
)
from fastadv.train._feed import Feed
from fastadv.train.augment import CutMix, MixUp, make_augment, random_resized_crop
from fastadv.train.recipes._common import of_mixed

from .nets import images, net

THREAT = fa.Linf(0.1)


def fed(augment, batch_size=8, **options):
    feed = Feed(images(26), batch_size, make_augment(augment), 5, torch.device("cpu"), classes=3, **options)
    return list(feed.batches(1))


@pytest.mark.parametrize("kind", [CutMix(), CutMix(0.3), MixUp()], ids=str)
def test_the_share_of_a_label_is_that_of_its_image(kind):
    ids = torch.arange(400)
    zeros, ones = torch.zeros(400, 1, 9, 12), torch.ones(400, 1, 9, 12)
    mixed, share = kind(zeros, ones, ids=ids, seed=3)
    torch.testing.assert_close(mixed.mean((1, 2, 3)).double(), share.double(), rtol=0, atol=1e-6)
    assert 0 <= share.min() < 0.02
    assert kind.most * 0.7 < share.max() <= kind.most
    again, _ = kind(zeros[7:9], ones[7:9], ids=ids[7:9], seed=3)
    assert torch.equal(again, mixed[7:9]), "a sample does not depend on the others"
    assert not torch.equal(kind(zeros, ones, ids=ids, seed=4)[0], mixed)
    if isinstance(kind, CutMix):
        assert set(mixed.unique().tolist()) == {0.0, 1.0}
        rows, columns = mixed.amax((1, 3)).sum(1), mixed.amax((1, 2)).sum(1)
        assert torch.equal(rows * columns, mixed.sum((1, 2, 3))), "a window"


@pytest.mark.parametrize("augment", [["cutmix"], ["shift", "mixup"]])
def test_an_image_is_mixed_with_one_of_its_batch_and_labels_with_it(augment):
    kind = make_augment(augment)
    plain = fed(augment[:-1] or None)
    met = 0
    for (x, y, ids), (own, label, same) in zip(fed(augment), plain, strict=True):
        assert torch.equal(ids, same)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.sum(1), torch.ones(len(y)))
        for row in range(len(x)):
            shares = [
                kind.mixing(own[row : row + 1], own[k : k + 1], ids=ids[row : row + 1], seed=kind.key(
                    len(augment) - 1, 5, 1))
                for k in range(len(x))
            ]  # fmt: skip
            mates = [k for k, (mixed, _) in enumerate(shares) if torch.equal(mixed[0], x[row])]
            one = torch.eye(3)[label]
            wanted = [one[row] + shares[k][1] * (one[k] - one[row]) for k in mates]
            assert any(torch.allclose(each.float(), y[row]) for each in wanted)
            met += row not in mates
    assert met > 15, "most have another one"


def test_labels_of_each_epoch_are_mixed_anew_and_of_a_part_of_an_epoch_as_of_all():
    feed = Feed(images(26), 8, make_augment("cutmix"), 5, torch.device("cpu"), classes=3)
    whole, rest = list(feed.batches(2)), list(feed.batches(2, done=2))
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(map(torch.equal, one, other))
    assert not torch.equal(whole[0][1], fed("cutmix")[0][1])


@pytest.mark.parametrize(
    "recipe",
    [Standard(0.1), FGSMTraining(THREAT), PGDTraining(THREAT, 2), FastTraining(THREAT), TRADES(THREAT, 2),
     FreeTraining(THREAT, 2), fa.train.AWP(TRADES(THREAT, 2)), GradAlign(FGSMTraining(THREAT))],
    ids=lambda recipe: type(recipe).__name__,
)  # fmt: skip
def test_recipes_train_on_mixed_labels(recipe):
    model, data = net(), images(48)
    losses = [r.loss for r in fit(model, data, recipe, epochs=3, batch_size=16, augment="mixup")]
    assert losses[-1] < losses[0]


def test_readers_of_images_and_of_partners_are_kept_over_epochs():
    class Pairs:
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return len(self.data)

        def __getitem__(self, i):
            return self.data[i]

    options = {"augment": make_augment(["shift", "cutmix"]), "seed": 5, "device": torch.device("cpu")}
    one, other = (
        Feed(data, 8, classes=3, **options, workers=workers)
        for data, workers in ((images(26), None), (Pairs(images(26)), 1))
    )
    for epoch in (1, 2):
        for mixed, wanted in zip(other.batches(epoch), one.batches(epoch), strict=True):
            assert all(map(torch.equal, mixed, wanted))
    other.close()


def test_of_certain_labels_the_loss_to_ascend_is_the_cross_entropy():
    logits, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    soft = torch.full((5, 3), 0.1).scatter(1, y[:, None], 0.8)
    loss, labels = of_mixed("ce", soft)
    assert torch.equal(labels, y)
    torch.testing.assert_close(loss(logits, y, None), cross_entropy(logits, soft, reduction="none"))
    with pytest.raises(InputError, match="loss: expected 'ce'"):
        of_mixed("margin", soft)


def test_who_cannot_take_mixed_labels_is_refused_before_the_first_step():
    later = NuAT(THREAT), IKL(THREAT, 2), GradAlign(SCORE(THREAT, 2))
    for recipe in (MART(THREAT, 2), Standard(loss="bce"), fa.train.AWP(MART(THREAT, 2)), *later):
        with pytest.raises(InputError, match="augment: expected one that leaves labels alone"):
            fit(net(), images(), recipe, epochs=1, augment="cutmix")
    with pytest.raises(InputError, match="as the last"):
        make_augment(["cutmix", "flip"])
    for most in (0, 1.5):
        with pytest.raises(InputError, match="most"):
            CutMix(most)


def test_a_window_of_the_whole_image_is_the_image_and_others_are_within():
    x = torch.rand(60, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(60)
    same = random_resized_crop(x[..., :8], ids=ids, seed=1, least=1.0, ratio=1.0)
    torch.testing.assert_close(same, x[..., :8], rtol=0, atol=1e-5)
    moved = random_resized_crop(x, ids=ids, seed=1)
    assert moved.shape == x.shape
    assert (moved.amin((2, 3)) >= x.amin((2, 3)) - 1e-6).all()
    assert (moved.amax((2, 3)) <= x.amax((2, 3)) + 1e-6).all()
    torch.testing.assert_close(moved[5:7], random_resized_crop(x[5:7], ids=ids[5:7], seed=1), rtol=0, atol=0)
    # a ramp from 0 to 1 tells where the window lies, and how wide it is
    ramp = (torch.arange(256) + 0.5).div(256).expand(1000, 1, 256, 256)
    options = {"least": 0.25, "most": 0.25, "ratio": 1.0}
    seen = random_resized_crop(ramp[:, :, :4], ids=torch.arange(1000), seed=2, **options)
    width = (seen[..., -1] - seen[..., 0]).mean((1, 2)) * 256 / 255
    assert width.max() <= 1.0
    left = seen[..., 0].mean((1, 2))
    assert left.min() < 0.01
    assert (left + width).max() > 0.99


def test_a_window_is_stretched_as_torch_does():
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([4])
    got = random_resized_crop(x, ids=ids, seed=0, least=0.25, most=0.25, ratio=1.0)
    _, _, top, left = fa.rng.uniform(4, 0, ids)[0].tolist()
    fine = interpolate(x, scale_factor=64, mode="bilinear", align_corners=False)
    first, side = (round(4 * 64 * top), round(4 * 64 * left)), 4 * 64
    window = fine[..., first[0] : first[0] + side, first[1] : first[1] + side]
    wanted = window[..., 15::32, 15::32]
    torch.testing.assert_close(got, wanted, rtol=0, atol=4 / 64)


def test_windows_of_an_oblong_image_are_square_in_pixels():
    height, width = 16, 64
    x = torch.stack([torch.arange(height)[:, None].expand(-1, width), torch.arange(width).expand(height, -1)])
    x = (x / width)[None].expand(50, -1, -1, -1)
    seen = random_resized_crop(x, ids=torch.arange(50), seed=0, least=0.1, most=0.1, ratio=1.0) * width
    # from one pixel to the next in the middle, times their number
    tall = height * (seen[:, 0, 9, 0] - seen[:, 0, 7, 0]) / 2
    wide = width * (seen[:, 1, 0, 33] - seen[:, 1, 0, 31]) / 2
    side = torch.full((50,), (height * width / 10) ** 0.5)
    torch.testing.assert_close(tall, side, rtol=1e-3, atol=0)
    torch.testing.assert_close(wide, side, rtol=1e-3, atol=0)
