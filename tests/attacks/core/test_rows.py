"""What a rule may remember: annotated names alone, whose rows leave with their samples."""

import pytest
import torch
from torch import Tensor

from fastadv.attacks.core import Rows


class Speeds(Rows):
    speed: Tensor


class Named(Speeds):
    name: str


def test_rows_of_samples_that_leave_go_too() -> None:
    rows = Named()
    rows.speed, rows.name = torch.arange(4), "kept"
    rows.take(torch.tensor([True, False, False, True]))
    assert rows.speed.tolist() == [0, 3]
    assert rows.name == "kept"


@pytest.mark.parametrize("rows", [Rows(), Speeds(), Named()])
def test_a_name_that_is_not_annotated_is_refused(rows: Rows) -> None:
    with pytest.raises(AttributeError, match="got 'sped'; annotate it in the class"):
        rows.sped = torch.zeros(2)  # type: ignore[attr-defined]
