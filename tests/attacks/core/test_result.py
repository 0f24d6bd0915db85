"""What a result says before its accuracy, by hand."""

import torch

from fastadv.attacks import AttackResult, Status


def lead(flat: int, right: int, wrong: int) -> str:
    """Of samples that hold, of which some are flat, and of others that were wrong, which all are."""
    place, some = torch.arange(right + wrong), torch.zeros(right + wrong)
    correct = place < right
    status = torch.where(correct, Status.HELD.value, Status.ALREADY_WRONG.value)
    zero = (place < flat) | ~correct
    return AttackResult(some[:, None], ~correct, status, some, some, 0, 0, zero_gradient=zero).lead


def test_a_share_of_flat_samples_is_one_of_those_that_were_right() -> None:
    for wrong in (0, 30, 600):
        assert "every gradient was zero on 6 of 30 samples" in lead(6, 30, wrong)
        assert lead(6, 300, wrong) == ""
