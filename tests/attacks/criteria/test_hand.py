"""Criteria by hand values: on the boundary, with targets, and for a class that rejects."""

import pytest
import torch
from torch import tensor

from fastadv.attacks import Beyond, Signs, Unless
from fastadv.attacks.criteria.lead import lead


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
    found = lead(margins, counts.expand(3, 4), tensor([1, 2, 3]))
    assert found.tolist() == pytest.approx([3.0, 1.0, -1 / 3])


def test_labels_that_are_ignored_are_in_no_mean() -> None:
    outputs, y = tensor([[1.0, -2.0, 3.0]]), tensor([[0, -1, 1]])
    right, counts = Signs().figures(outputs, y)["label accuracy"]
    assert (right.item(), counts.item()) == (1.0, 2.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, ::2], y[:, ::2].float())
    assert Signs().objective(outputs, y).item() == pytest.approx(expected.item())
