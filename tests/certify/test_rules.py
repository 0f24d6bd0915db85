"""The rules of decision: levels, charges, and what a certificate is of."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastadv.certify import predict, smooth
from fastadv.certify.noise import Noise
from fastadv.certify.sequential import Fixed, Sequential, lower_bound
from fastadv.certify.smooth import Smoothed
from fastadv.errors import InputError
from tests.certify.nets import SIGMA, halfspace, images
from tests.refusals import refuses

NOISE = Noise(SIGMA)


def test_a_hopeless_image_takes_few_draws() -> None:
    judge, drawn = Sequential(NOISE, 100_000, 1e-3, 1e-6, NOISE.ladder), 0
    while more := judge.more(int(0.1 * drawn), drawn):
        drawn += more
    assert drawn < 100


def test_what_the_noise_lacks_is_charged() -> None:
    free, charged = ([Fixed(NOISE, 100, 1e-3, c), Sequential(NOISE, 100, 1e-3, c, [9.0])] for c in (0, 0.1))
    for cheap, dear in zip(free, charged, strict=True):
        assert dear.radius(100, 100) < cheap.radius(100, 100)
    several = [Sequential(NOISE, 1000, 1e-3, charge, [0.25]) for charge in (0, 0.1)]
    least = [next(k for k in range(1000) if one.decisions(k, 1000)[0] > 0) for one in several]
    assert least[0] < least[1]


def test_all_hits_certify_what_the_paper_says() -> None:
    expected = NOISE.radius(1e-3 ** (1 / 50))
    assert math.isclose(Fixed(NOISE, 50, 1e-3, 0).radius(50, 50), expected, rel_tol=1e-9)


def test_every_element_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Noise, "charge", lambda self, elements: seen.append(elements) or 0.0)
    result = smooth(halfspace(), images(2), SIGMA, n=20)
    assert set(seen) == {16}
    assert len(result.ids) == 2


@pytest.mark.slow
def test_an_accuracy_counts_a_radius_that_is_just_reached() -> None:
    result = smooth(halfspace(), images(), SIGMA, n=300)
    least = float(result.radius[result.correct].min())
    assert result.accuracy(least) == result.clean_accuracy > result.accuracy(math.nextafter(least, 9))


@pytest.mark.slow
def test_draws_that_chose_the_wrong_class_bound_that_class() -> None:
    result = smooth(halfspace(), images(), SIGMA, n0=1, n=200, sequential=False)
    wrong = result.hits < 100
    assert wrong.any()
    assert result.abstained[wrong].all()
    assert (result.prediction != (halfspace().distance(images()[0]) > 0))[wrong].all()
    assert not result.failed.any()  # a vote for the other class is none that failed


@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_predict_is_the_two_sided_test(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond(hits: int) -> float:
        return 2 * sum(math.comb(100, k) for k in range(hits, 101)) / 2**100

    least = next(hits for hits in range(50, 101) if beyond(hits) <= alpha)
    votes = torch.tensor([[least, 100 - least], [100 - least, least], [least - 1, 101 - least]])
    monkeypatch.setattr(Smoothed, "votes", lambda *inputs: votes.int())
    assert predict(halfspace(), images(3)[0], SIGMA, n=100, alpha=alpha).tolist() == [0, 1, -1]


class Recorder:
    """Two classes by the sum of the pixels; `drawn` tells the noisy copies that it was asked about."""

    def __init__(self) -> None:
        self.passes: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.passes.append(x.detach().flatten(1).clone())
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    def drawn(self) -> set[tuple[float, ...]]:
        copies = [tuple(row) for each in self.passes if len(each) > 1 for row in each.tolist()]
        self.passes.clear()
        return set(copies)


@pytest.mark.slow
def test_predict_draws_by_its_seed_and_the_number_of_the_image() -> None:
    model = Recorder()

    def drawn(*ids: int, seed: int = 0) -> set[tuple[float, ...]]:
        x = images(1)[0].expand(len(ids), 1, 4, 4)  # told apart by their numbers alone
        predict(model, x, SIGMA, n=9, seed=seed, ids=torch.tensor(ids))
        return model.drawn()

    alone = drawn(1)
    assert len(alone) == 9
    assert alone < drawn(2, 1)
    assert not alone & (drawn(0) | drawn(2) | drawn(1, seed=1))


class Shares(nn.Module):
    """Votes for ten classes of known shares, by the first pixel of a copy."""

    def __init__(self, *edges: float) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor(edges))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.bucketize(x.flatten(1)[:, :1].float(), self.edges).squeeze(1)
        return nn.functional.one_hot(place, 10).float()


def test_predict_tests_the_two_first_classes_against_each_other():
    # about 30, 45 and 25% of the votes: of all draws no class has the half
    model, x = Shares(-0.26, 0.34), torch.zeros(2, 1, 2, 2)
    assert predict(model, x, 0.5, n=1000).tolist() == [1, 1]
    assert smooth(model, (x, torch.ones(2).long()), 0.5, n=1000).abstained.all()


def test_predict_takes_what_it_can_and_refuses_the_rest():
    model, x = halfspace(), images(6)[0]
    classes = predict(model, x, SIGMA, ids=torch.arange(6))
    for ids in (list(range(6)), np.arange(6)):
        assert torch.equal(predict(model, x, SIGMA, ids=ids), classes)
    for wrong, says in (
        ({"ids": [0, 1]}, "ids: expected int64"), ({"sound": 1}, "sound: expected True or False"),
        ({"x": x.numpy()}, "x: expected a floating"), ({"x": (255 * x).byte()}, "x: expected a floating"),
    ):  # fmt: skip
        refuses(says, predict, model, **{"x": x, "sigma": SIGMA, **wrong})


def test_logarithms_are_exact_enough():
    """The bound of k hits in n is where the test martingale, by math.lgamma, reaches 1 / alpha."""
    hits, n, alpha = 99_990, 100_000, 1e-3

    def ratio(p):
        beta = math.lgamma(hits + 0.5) + math.lgamma(n - hits + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
        return beta - hits * math.log(p) - (n - hits) * math.log1p(-p)

    assert ratio(lower_bound(hits, n, alpha)) == pytest.approx(math.log(1 / alpha), abs=1e-4)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range_are_refused(label):
    x, y = images(4)
    y[2] = label
    refuses("labels from 0 to 1", smooth, halfspace(), (x, y), SIGMA, n=20)


def test_the_grid_ends_where_it_does():
    noise = Noise(0.5)
    refuses("grid", noise.levels, torch.full((1, 4), 1.001 / 255))
    for wrong in (math.nan, math.inf, 1e9):
        refuses("grid", noise.levels, torch.tensor([[0.0, wrong]]), sound=False)
    fine = Noise(1e-4)
    with pytest.raises(InputError, match="grid"):
        fine.levels(torch.full((1, 1), 3000.0), sound=False)  # more steps than int32 counts
    assert int(fine.levels(torch.ones(1, 1), sound=False)) == 255 * fine.steps
    assert noise.ladder[-1] == 4 * noise.sigma
