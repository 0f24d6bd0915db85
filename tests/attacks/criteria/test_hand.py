"""Criteria by hand values: on the boundary, with targets, and for a class that rejects."""

import pytest
import torch
from hypothesis import example, given
from hypothesis.strategies import floats, integers
from torch import Tensor, tensor

from fastadv.attacks import Beyond, Share, Signs, Unless
from fastadv.attacks.criteria.decisions import lead


@pytest.mark.parametrize("reject", [1, -2])
def test_a_class_that_rejects_is_no_success_and_must_be_exceeded_too(reject: int) -> None:
    logits, y = tensor([[3.0, 5.0, 4.0], [3.0, 1.0, 4.0], [3.0, 5.0, 1.0]]), tensor([0, 0, 0])
    assert Unless(reject).met(logits, y, None).tolist() == [False, True, False]
    assert Unless(reject).margin(logits, y, None).tolist() == [-1.0, 1.0, -4.0]
    assert Unless(reject).right(logits.flip(1), tensor([2, 2, 2])).tolist() == [False, False, False]
    abstained, ones = Unless(reject).figures(logits, y)["abstained"]
    assert abstained.flatten().tolist() == [1.0, 0.0, 1.0]
    assert ones.sum() == 3


def test_the_boundary_of_a_distance_is_within_it() -> None:
    outputs, y = tensor([[3.0, 4.0], [3.0, 4.1]]), torch.zeros(2, 2)
    assert Beyond(5.0).met(outputs, y, None).tolist() == [False, True]
    assert Beyond(5.0).met(outputs, outputs, y).tolist() == [True, False]
    far, one = Beyond(5.0), y[:, :1]
    assert far.ways(outputs, None, False) == (far,) == far.ways(one, one, False)
    assert len(far.ways(one, None, False)) == len(far.ways(one, None, True)) == 2
    met = [
        side.met(tensor([[6.0], [4.0], [-6.0]]), torch.zeros(3, 1), None)
        for side in far.ways(one, None, True)
    ]
    assert torch.stack(met).tolist() == [[True, False, False], [False, False, True]]
    assert Beyond(1.0, by="l1").margin(outputs, y, None).tolist() == pytest.approx([6.0, 6.1])
    assert Beyond(1.0, by="linf").margin(outputs, y, None).tolist() == pytest.approx([3.0, 3.1])
    cosine = Beyond(0.5, by="cosine").margin(outputs[:1], tensor([[4.0, -3.0]]), None)
    assert cosine.item() == pytest.approx(0.5)  # a right angle is at 1


def test_the_sign_of_zero_says_no() -> None:
    assert Signs().met(torch.zeros(2, 1), tensor([[0], [1]]), None).tolist() == [False, True]


def test_all_signs_of_targets_are_needed() -> None:
    outputs, y = tensor([[1.0, -2.0, 3.0], [1.0, 2.0, 3.0]]), torch.zeros(2, 3, dtype=torch.long)
    targets = tensor([[1, 1, -1], [1, 1, -1]])  # the last does not count
    assert Signs().met(outputs, y, targets).tolist() == [False, True]
    assert Signs().margin(outputs, y, targets).tolist() == [-1.0, 1.0]
    assert Signs(2).met(outputs, y, None).tolist() == [True, True]
    assert Signs("all").met(outputs, y, None).tolist() == [False, True]


def test_a_lead_is_the_last_of_as_many_as_are_needed_or_what_they_lack() -> None:
    margins, counts = tensor([[3.0, 1.0, -1.0, 9.0]]).expand(3, 4), tensor([[True, True, True, False]])
    assert lead(margins, counts.expand(3, 4), tensor([1, 2, 3])).tolist() == pytest.approx([3.0, 1.0, -1 / 3])


def test_more_labels_than_count_are_all_that_count_and_targets_fall_in_ce() -> None:
    outputs, y = tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]]), tensor([[0, 0, -1], [0, 0, -1]])
    assert Signs(3).met(outputs, y, None).tolist() == [True, False]
    away, aimed = (Signs().loss("ce")(outputs, y, t) for t in (None, y))  # type: ignore[operator]
    assert torch.equal(aimed, -away)


def test_a_lead_follows_those_needed_as_if_there_were_no_others() -> None:
    margins, some = tensor([[0.1, -0.5, -2.0, -7.0]], requires_grad=True), torch.ones(1, 4).bool()
    found = [lead(margins[:, :k], some[:, :k], tensor([2])) for k in (2, 3, 4)]
    first, *others = (torch.autograd.grad(each.sum(), margins)[0] for each in found)
    assert all(torch.equal(first, other) for other in others)
    assert 0 < first[0, 0] < first[0, 1]


def test_a_lead_keeps_what_is_wrong_and_lets_go_of_what_is_far_beyond() -> None:
    """Without the second the first would turn back; the value is that of the hard lead."""
    margins = tensor([[0.1, -0.5, -2.0], [9.0, 0.5, 2.0]], requires_grad=True)
    leads = lead(margins, torch.ones(2, 3, dtype=torch.bool), tensor([3, 3]))
    assert leads.tolist() == pytest.approx([-2.5 / 3, 0.5])
    (gradient,) = torch.autograd.grad(leads.sum(), margins)
    assert 0 < gradient[0, 0] < gradient[0, 1] < gradient[0, 2] == pytest.approx(1 / 3)
    assert gradient[1, 0] < gradient[1, 2] < gradient[1, 1] == 1
    (alone,) = torch.autograd.grad(lead(margins, torch.ones(2, 3).bool(), tensor([1, 1])).sum(), margins)
    assert alone.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("by", ["l2", "l1", "linf", "cosine"])
def test_no_tolerance_rounds_the_loss_away(by: str) -> None:
    outputs, y = tensor([[3.0, 4.0], [3.0, 4.01]], requires_grad=True), tensor([[1.0, 2.0], [1.0, 2.0]])
    for targets in (None, y + 1):
        near, far = (Beyond(d, by=by).loss("margin")(outputs, y, targets) for d in (0.5, 1e9))  # type: ignore[operator]
        assert torch.equal(near, far)
        assert near[0] != near[1]


def test_labels_that_are_ignored_are_in_no_mean() -> None:
    outputs, y = tensor([[1.0, -2.0, 3.0]]), tensor([[0, -1, 1]])
    right, counts = Share(1.0).figures(outputs, y)["label accuracy"]
    assert (right.item(), counts.item()) == (1.0, 2.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, ::2], y[:, ::2].float())
    assert Signs().objective(outputs, y).item() == pytest.approx(expected.item())


def tags(count: int) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of which row k has k wrong ones of `count`; two others are ignored."""
    y = (torch.arange(count)[None] >= torch.arange(count + 1)[:, None]).long()
    return torch.ones(count + 1, count + 2), torch.cat([y, torch.full((count + 1, 2), -1)], 1)


@pytest.mark.parametrize(
    ("least", "count", "needed"),
    [(0.3, 50, 15), (0.15, 100, 15), (0.6, 25, 15), (0.7, 10, 7), (0.301, 50, 16), (1e-9, 50, 1), (1, 9, 9)],
)
def test_a_share_in_decimals_is_what_a_user_counts(least: float, count: int, needed: int) -> None:
    (z, y), share, expected = tags(count), Share(least), torch.arange(count + 1) >= needed
    channels = torch.stack([torch.zeros_like(z), z], 1)
    assert torch.equal(share.met(z, y, None), expected)
    assert torch.equal(share.met(channels, y, None), expected)
    assert torch.equal(share.met(z, y, 1 - y), expected)
    assert torch.equal(share.margin(channels, y, None) > 0, expected)
    assert torch.equal(share.loss("margin")(z, y, 1 - y) > 0, expected)  # type: ignore[operator]


@pytest.mark.slow
@example(count=40_251, share=0.251)
@example(count=50_000, share=0.3 + 1e-10)
@given(count=integers(1, 50_000), share=floats(1e-6, 1))
def test_of_many_positions_the_quotient_decides(count: int, share: float) -> None:
    z = torch.zeros(1, count)
    for least in (share, round(share, 3) or 1e-3, max(round(share * count), 1) / count):
        needed = int(Share(least).decisions(z, z.long(), None)[1])
        assert needed / count >= least > (needed - 1) / count


@pytest.mark.parametrize(("first", "unit"), [(1.0, 1.0), (9.0, 0.15 * 29 / 3), (1e-6, 20.000001 / 300)])
def test_the_unit_of_the_bounded_margin(first: float, unit: float) -> None:
    z, y = tensor([[[first, 10.0, 10.0], [0.0, 0.0, 0.0]]]), torch.zeros(1, 3).long()
    margins = tensor([first, 10.0, 10.0])
    found = Share(1 / 3).loss("bounded_margin")(z, y, None)
    assert found.item() == pytest.approx(-(margins / (unit + margins)).mean().item(), rel=1e-5)


def test_one_tag_has_a_label_accuracy() -> None:
    assert Share(1.0).figures(tensor([[0.0, 2.0]]), tensor([[1]])).keys() == {"label accuracy"}
