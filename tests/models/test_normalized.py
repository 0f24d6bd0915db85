"""Normalization inside the model."""

from typing import Any

import pytest
import torch
from torch import fx

from fastadv.errors import InputError
from fastadv.models import Normalized, SmallCNN

MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


def test_it_is_the_model_on_normalized_images() -> None:
    model, x = SmallCNN((3, 8, 8)).eval(), torch.rand(4, 3, 8, 8)
    wrapped = Normalized(model, MEAN, STD)
    expected = model(torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1))
    torch.testing.assert_close(wrapped(x), expected)
    assert torch.equal(fx.symbolic_trace(wrapped.eval())(x), wrapped(x))


def test_one_number_serves_all_channels() -> None:
    model, x = SmallCNN((3, 8, 8)).eval(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(Normalized(model, 0.5, 0.25)(x), model((x - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("mean", "std", "match"),
    [
        (0.5, 0.0, "std > 0"),
        (0.5, -1.0, "std > 0"),
        ([0.1, 0.2], [0.1], "as many"),
        ([], [], "as many"),
        (float("nan"), 1.0, "finite"),
        (0.5, float("inf"), "finite"),
    ],
)
def test_constants_that_do_not_normalize_are_refused(mean: Any, std: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Normalized(SmallCNN(), mean, std)
