"""Certificates of classifiers whose true radius is known, and of those that misbehave."""

import math
import sys
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import _waiting
from fastadv.certify import predict, smooth
from fastadv.certify.noise import NORMAL
from fastadv.evaluation import Curve
from tests.certify.nets import SIGMA, halfspace, images
from tests.refusals import refuses


@pytest.mark.slow
@pytest.mark.parametrize("sequential", [False, True])
def test_a_linear_classifier_is_certified_up_to_its_true_radius_and_never_beyond(sequential) -> None:
    model, data = halfspace(), images()
    result = smooth(model, data, SIGMA, n=20_000, sequential=sequential)
    distance = model.distance(data[0])
    clear = distance.abs() > 0.1
    assert torch.equal(result.prediction[clear], (distance > 0).long()[clear])
    assert (result.prediction == (distance > 0))[result.radius > 0].all()
    ceiling = SIGMA * NORMAL.inv_cdf(1e-3 ** (1 / 20_000))
    assert (result.radius <= distance.abs()).all()
    near = distance.abs() < 0.7 * ceiling
    assert near.sum() > 10
    assert (result.radius >= distance.abs() - 0.1)[near].all()
    assert torch.equal(result.correct, (result.prediction == data[1]) & (result.radius > 0))
    expected = float((result.radius * (result.prediction == data[1])).mean())
    assert math.isclose(result.average_radius, expected)


@pytest.mark.slow
def test_sequential_decisions_agree_with_those_of_all_draws_and_take_fewer() -> None:
    model, data, radii = halfspace(), images(40), (0.1, 0.25, 0.5, 0.75)
    cohen = smooth(model, data, SIGMA, n=20_000, sequential=False)
    quick = smooth(model, data, SIGMA, n=20_000, radii=radii)
    assert (cohen.draws == 20_000).all()
    assert quick.draws.double().mean() < 6000
    for radius in radii:
        clear = (cohen.radius - radius).abs() > 0.05
        assert torch.equal((quick.radius >= radius)[clear], (cohen.radius >= radius)[clear])


def test_each_copy_has_noise_of_its_own() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    x, y = images(3)
    smooth(model, (x, y), SIGMA, n0=50, n=200, sequential=False, batch_size=64)
    copies = torch.cat([copy for copy in seen if len(copy) > 1]).flatten(1)
    assert len(copies) == 3 * 250 == len(copies.unique(dim=0))
    turns = [torch.arange(3).repeat_interleave(count) for count in (50, 200)]
    noise = copies - x.flatten(1)[torch.cat(turns)]
    assert abs(float(noise.std()) - SIGMA) < 0.01
    assert abs(float(noise.mean())) < 0.02
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 0.05
    # passes are full: those of several images share a batch
    sizes = [len(copy) for copy in seen if len(copy) > 1]
    assert sizes.count(64) >= len(sizes) - 2


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        logits = x.new_zeros(len(x), 1 if self.kind == "one class" else 3)
        if self.kind == "NaN":
            logits[x.flatten(1).sum(1) > x[0].numel() / 2] = torch.nan
        return logits


def test_logits_that_are_not_finite_are_votes_against_and_are_told() -> None:
    x = torch.full((4, 1, 4, 4), 128 / 255)  # the noise decides: half of the draws fail
    result = smooth(Odd("NaN"), (x, torch.zeros(4, dtype=torch.long)), SIGMA, n=1000, sequential=False)
    assert (result.hits + result.failed == 1000).all()
    assert ((result.failed - 500).abs() < 80).all()
    assert result.abstained.all()
    assert (result.radius == 0).all()
    assert result.average_radius == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sigma": 0}, "sigma"), ({"sigma": math.nan}, "sigma"), ({"n0": 0}, "n0"), ({"n": 0}, "n:"),
        ({"alpha": 0}, "alpha"), ({"alpha": 0.5}, "alpha"), ({"alpha": math.nan}, "alpha"),
        ({"radii": (-1,)}, "radii"), ({"radii": ()}, "radii"), ({"radii": (math.inf,)}, "radii"),
        ({"radii": 0.1}, "such as"),
        ({"n0": fa.L2}, "n0"), ({"batch_size": 0}, "batch_size"), ({"sequential": 1}, "sequential"),
        ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_arguments_out_of_range(wrong, named) -> None:
    arguments = {"sigma": SIGMA, "n": 10} | wrong
    refuses(named, smooth, halfspace(), images(2), **arguments)


def test_classes_and_grids_that_do_not_fit() -> None:
    x, y = images(2)
    refuses("two classes", smooth, Odd("one class"), (x, y), SIGMA, n=10)
    refuses("sound=False", smooth, halfspace(), (x + 0.3 / 255, y), SIGMA, n=10)
    rounded = smooth(halfspace(), ((x + 0.3 / 255).clamp(max=1), y), SIGMA, n=10, sound=False)
    assert "nearest points" in rounded.card["measured"]["notes"][0]


@pytest.mark.slow
def test_images_of_many_parts_share_the_passes_of_a_gpu(monkeypatch) -> None:
    """Certificates are the same; passes are fewer and fuller."""
    monkeypatch.setattr(sys.modules["fastadv.certify.smooth"], "PART", 5)
    monkeypatch.setattr(sys.modules["fastadv.certify.smooth"], "ON_GPU", 10)

    def certified(at_once: set[str]) -> tuple[fa.certify.Certificates, int]:
        model, sizes = halfspace(), list[int]()
        model.register_forward_hook(lambda part, args, logits: sizes.append(len(logits)))
        with patch.object(_waiting, "AT_ONCE", at_once):
            return smooth(model, images(24), SIGMA, n=300, batch_size=512), len(sizes)

    (wanted, several), (result, fewer) = certified({"cpu"}), certified(set())
    assert fewer < 0.8 * several
    for name in ("ids", "hits", "draws", "radius"):
        assert torch.equal(getattr(result, name), getattr(wanted, name)), name


def test_predict_abstains_where_two_classes_are_close() -> None:
    model = halfspace()
    x, _ = images(12)
    x[0] = 128 / 255  # on the border
    decided = predict(model, x, SIGMA, n=2000)
    distance = model.distance(x)
    clear = distance.abs() > 0.1
    assert torch.equal(decided[clear], (distance > 0).long()[clear])
    assert decided[0] == -1
    assert torch.equal(predict(model, x[3:], SIGMA, n=2000, ids=torch.arange(3, 12)), decided[3:])


def test_the_table_and_its_curve() -> None:
    result = smooth(halfspace(), images(), SIGMA, n=1000, radii=(0.25, 0.5))
    written = result.to_dict()
    assert [row["id"] for row in written["certificates"]] == list(range(24))
    assert (written["config"]["sigma"], written["average_radius"]) == (SIGMA, result.average_radius)
    curve = Curve.from_certificates(result.radius, result.correct, [0.25, 0.5])
    assert curve.accuracy.tolist() == pytest.approx([result.accuracy(0.25), result.accuracy(0.5)])
    assert "24 images" in str(result)
    assert "within 0.25" in str(result)
