"""A corrupted set: each image is a function of (seed, number, corruption, severity), however it is read."""

import pickle
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import fastadv as fa
from fastadv.data.content import describe_data
from fastadv.data.corruption import sets
from fastadv.data.corruption.card import CORRUPTIONS, Draws, constants_for
from fastadv.data.corruption.noise import photons, shot_noise
from fastadv.errors import InputError
from tests.data.test_kinds import files

N = 50
X = torch.randint(0, 256, (N, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
Y = torch.arange(N) % 10
LETTERS = tuple("abcdefghij")


def held(eight_bit=True):
    return fa.data.ImageSet(X if eight_bit else X / 255, Y, LETTERS, "held", note="rare")


KINDS = {
    "uint8": lambda _: held(),
    "float32": lambda _: held(eight_bit=False),
    "subset": lambda _: Subset(TensorDataset(X, Y), range(N)),
    "unlabeled": lambda _: [(x / 255, int(y)) for x, y in zip(X, Y, strict=True)],
    "folder": lambda path: files(path, X, Y),
}


def read(dataset, size, order=None, **options):
    x, y, ids = map(torch.cat, zip(*fa.data.batches(dataset, size, order, **options), strict=True))
    return x[ids.argsort()], y[ids.argsort()]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "folder")) for kind in KINDS]
)
def test_an_image_does_not_depend_on_how_it_is_read(kind, tmp_path):
    source = KINDS[kind](tmp_path)
    dataset = fa.data.corrupted(source, "gaussian_noise", severity=2, seed=4)
    wanted = sets.corrupt(X, "gaussian_noise", 2, 4, torch.arange(N)) / 255
    workers = 2 if kind == "folder" else None
    for size, order in ((1, None), (7, range(N - 1, -1, -1)), (50, None)):
        x, y = read(dataset, size, order, workers=workers)
        assert torch.equal(x, wanted)
        assert y.tolist() == dataset.labels.tolist() == Y.tolist()
    assert torch.equal(torch.cat([x for x, _ in DataLoader(pickle.loads(pickle.dumps(dataset)), 9)]), wanted)
    part = dataset.subset([8, 3, 3])
    assert torch.equal(torch.cat([x for x, *_ in fa.data.batches(part, 2)]), wanted[[8, 3, 3]])
    assert torch.equal(part[-3][0], wanted[8])
    for other in ({"seed": 5}, {"severity": 3}):
        changed = fa.data.corrupted(source, "gaussian_noise", **{"severity": 2, "seed": 4} | other)
        assert (read(changed, N)[0] != wanted).flatten(1).any(1).all()


def test_floats_are_rounded_to_8_bits_and_draws_of_the_source_follow_the_seed():
    between = (X + torch.rand(X.shape) * 0.9 - 0.45) / 255
    assert torch.equal(sets.corrupt(between.clamp(0, 1), "contrast", 3, 0, torch.arange(N)),
                       sets.corrupt(X, "contrast", 3, 0, torch.arange(N)))  # fmt: skip
    drawing = [(x, int(y)) for x, y in zip(X / 255, Y, strict=True)]
    source = fa.data.pairs(drawing, 0, 1, transform=lambda x: x * torch.rand(1))
    dataset = fa.data.corrupted(source, "brightness", 1)
    seeds = [read(dataset, N, seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


def test_what_a_set_tells_passes_through_and_its_hash_costs_no_image(monkeypatch):
    monkeypatch.delattr(sets, "corrupt")
    source = held()
    source.fixed_order = True
    of = partial(fa.data.corrupted, source, "impulse_noise")
    one, tiny = of(), of(constants="tiny")
    others = [tiny, of(seed=1), of(severity=4), fa.data.corrupted(source, "speckle_noise"), source]
    others += [fa.data.corrupted(held(eight_bit=False), "impulse_noise"), one.subset(range(N - 1))]
    assert len({describe_data(dataset) for dataset in (one, *others)}) == 8
    assert describe_data(one) == describe_data(fa.data.corrupted(held(), "impulse_noise"))
    assert (one.classes, one.fixed_order, one.name) == (LETTERS, True, "held, impulse_noise 3")
    assert tiny.note == "rare; regenerated impulse_noise of severity 3, seed 0, constants tiny"
    assert repr(one) == "Corrupted('held, impulse_noise 3', 50 images, seed 0)"


NAN = TensorDataset(torch.full((2, 3, 32, 32), torch.nan), torch.arange(2))


@pytest.mark.parametrize(
    ("dataset", "arguments", "match"),
    [
        (held(), ("fogg", 1), "corruption: expected one of gaussian_noise"),
        (held(), ("gaussian_noise", 6), "severity: expected 1, 2, 3, 4 or 5, got 6"),
        (held(), ("gaussian_noise", True), "severity: .* got True"),
        (held(), ("gaussian_noise", 1, -1), "seed"),
        ([(X[0], Y)], ("gaussian_noise", 1), r"dataset: expected pairs \(image, class\), got other items"),
        ((X[:, :2], Y), ("gaussian_noise", 1), r"gray or RGB images .* got \[50, 2, 32, 32\]"),
        (
            (X[..., :31], Y),
            ("gaussian_noise", 1),
            r"32 pixels or more, got \[50, 3, 32, 31\]; load them",
        ),
        (NAN, ("gaussian_noise", 1), "expected finite pixels, got NaN"),
        ([("read", 0)], ("fog", 1), r"expected the image as a tensor, got str; .*fa\.data\.pairs"),
    ],
)
def test_bad_input_is_refused(dataset, arguments, match):
    with pytest.raises(InputError, match=match):
        read(fa.data.corrupted(dataset, *arguments), N)


def test_another_box_is_refused():
    with pytest.raises(InputError, match=r"expected float32 values in \[-1, 1\], got uint8"):
        read(fa.data.corrupted(held(), "gaussian_noise"), N, box=(-1, 1))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_pixels_do_not_depend_on_threads_or_modes(name):
    if name == "frost":
        pytest.importorskip("imagecorruptions")
    ids = torch.arange(12) + 2**33
    x = X[:12, :, :20, None, :, None].expand(-1, -1, -1, 3, -1, 3).reshape(12, 3, 60, 96)
    x = x // (1 + ids % 3).to(torch.uint8)[:, None, None, None]  # with maxima of their own
    threads, wanted = torch.get_num_threads(), sets.corrupt(x, name, 3, 0, ids)
    try:
        torch.set_num_threads(3 - min(threads, 2))
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            pixels = sets.corrupt((x.float() / 255).requires_grad_(), name, 3, 0, ids, "cifar")
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(pixels, wanted)
    order = torch.tensor([9, 2, 10])
    assert torch.equal(sets.corrupt(x[order], name, 3, 0, ids[order]), wanted[order])
    assert sets.corrupt(x[:2, :1], name, 5, 0, ids[:2]).shape == (2, 1, 60, 96)


def test_the_table_of_photons_is_poissons_on_any_processor(monkeypatch):
    table = photons.__wrapped__
    share, other = table(50.0, X.device)
    chances = share.scatter_add(1, other.long(), 1 - share) / share.shape[1]
    means, k = 50 * torch.arange(256)[:, None] / 255, torch.arange(share.shape[1])
    assert torch.allclose(chances, torch.distributions.Poisson(means).log_prob(k).exp(), atol=1e-6)
    exp = torch.exp
    monkeypatch.setattr(torch, "exp", lambda x: exp(x) * (1 + 1e-15 * torch.randn_like(x)))
    assert all(map(torch.equal, table(50.0, X.device), (share, other)))


def test_another_severity_draws_anew():
    one, other = (sets.corrupt(X * 0 + 128, "gaussian_noise", k, 0, Y) > 128 for k in (1, 2))
    assert 0.45 < (one == other).float().mean() < 0.55


def test_constants_follow_the_shorter_side():
    for short, name in ((64, "imagenet"), (63, "cifar")):
        assert (
            constants_for(torch.zeros(1, 3, short, 80)) == constants_for(torch.zeros(1, 3, 80, short)) == name
        )


@pytest.mark.parametrize(("scale", "level"), [(60, 128), (5, 40), (12, 255)])
def test_shot_noise_of_a_flat_image_has_the_moments_of_a_poisson_number(scale, level):
    draws = Draws(7, torch.arange(200))
    counts = shot_noise(torch.full((200, 1, 32, 32), level / 255), scale, draws).double() * scale
    mean = scale * level / 255
    error = (mean / counts.numel()) ** 0.5
    assert abs(float(counts.mean()) - mean) < 5 * error
    assert abs(float(counts.var()) - mean) < 5 * ((2 * mean**2 + mean) / counts.numel()) ** 0.5
