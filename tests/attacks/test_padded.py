"""A class that is never predicted hides from nobody that the rest of a model draws or mixes its rows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.engine.guard import near

from .nets import images, labels, mlp

X, NET = images(12, dtype=torch.float32), mlp(4).float()
Y = labels(NET, X)
FRONTS: dict[str, Callable[[Tensor], Tensor]] = {
    "randomized": lambda z: NET(z + 0.1 * torch.randn_like(z)),
    "mixed_rows": lambda z: NET(z + 0.3 * (z.mean(0, keepdim=True) - z)),
}


class Padded(nn.Module):
    def __init__(self, front: Callable[[Tensor], Tensor], value: float | None) -> None:
        super().__init__()
        self.front, self.value = front, value

    def forward(self, z: Tensor) -> Tensor:
        out = self.front(z)
        return out if self.value is None else torch.cat([out, out.new_full((len(out), 2), self.value)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
def test_a_class_that_is_never_predicted_hides_no_draw(front: str) -> None:
    seen = []
    for value in (None, -1e4, -1e30):
        torch.manual_seed(0)
        model = Padded(FRONTS[front], value).eval()
        out = fa.attacks.pgd(model, X, Y, fa.Linf(0.05), steps=3, eot=1 + (front == "randomized"))
        table = fa.evaluate(model, (X, Y), ["pgd"], threat=fa.Linf(0.05))
        assert table.indicators is not None
        seen.append((out.status.tolist(), out.flags, front in table.indicators.flagged))
    assert seen[1:] == seen[:1] * 2
    assert seen[0][2]


def test_classes_count_that_come_near_the_largest_logit_in_any_row() -> None:
    rows = torch.tensor([[1.0, 2.0, -50.0, -300.0], [3.0, 1.0, -400.0, -400.0]])
    assert near(rows).tolist() == [True, True, True, False]
    assert near(torch.zeros(2, 3)).all()
    assert near(torch.full((2, 3), torch.nan)).all()
