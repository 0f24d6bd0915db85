"""What judge_ refuses: what it writes is under contract, and beside the general way in tests/relations."""

import torch

from fastadv.ops.judge import judge_
from tests.refusals import refuses


def test_refusals():
    x, lowest, none = torch.rand(3, 3, 2, 2), torch.full((3,), -torch.inf), torch.zeros(3, dtype=torch.bool)
    record = x.clone(), lowest, none, none.clone(), lowest.clone(), torch.zeros(3, 5), none.clone()
    given = *record, x.clone(), x, torch.rand(3, 4), torch.rand(3)
    y = torch.tensor([0, 1, 2])
    refuses("labels: expected classes in", judge_, *given, y + 2)
    refuses("targets: expected classes in", judge_, *given, y, y + 2)
