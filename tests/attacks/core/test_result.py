"""What a result says before its accuracy, by hand."""

import torch

from fastadv.attacks import AttackResult, Status


def held(flat: int, right: int, wrong: int = 0) -> AttackResult:
    """A result of samples that hold, of which some are flat, and of others that were wrong, which all are."""
    place = torch.arange(right + wrong)
    correct = place < right
    status = torch.where(correct, Status.HELD.value, Status.ALREADY_WRONG.value)
    some = torch.zeros(len(place))
    return AttackResult(
        some[:, None], ~correct, status, some, some, 0, 0, zero_gradient=(place < flat) | ~correct
    )


def test_a_share_of_flat_samples_is_one_of_those_that_were_right() -> None:
    for wrong in (0, 30, 600):
        assert "every gradient was zero on 6 of 30 samples" in held(6, 30, wrong).lead
        assert held(6, 300, wrong).lead == ""
    assert held(0, 0, 30).lead == ""
