"""How gradients in half precision are judged: by their worst rows, and their cosine is told."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine import guard
from tests.logged import Logged

X = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(24) % 5


@pytest.mark.parametrize("alike", [0.2, 0.45])
def test_half_precision_that_is_mostly_noise_is_refused_though_the_plain_search_is_no_better(
    alike: float,
) -> None:
    """`alike` is the cosine of the search and of the plain search with the model: 0.3 is the least."""
    x, by_logits, draw = torch.rand(16, 500), torch.rand(16, 3), torch.Generator().manual_seed(0)
    own, noise = F.normalize(torch.randn(2, 16, 500, generator=draw), dim=2)
    noise = F.normalize(noise - (noise * own).sum(1, keepdim=True) * own)
    found = alike * own + (1 - alike**2) ** 0.5 * noise
    ways = guard.Ways(
        searched=lambda at, some: found, given=lambda at, some: own, plain=lambda at, some: found
    )
    assert guard.agrees(ways, x, by_logits, found, torch.bfloat16) == (alike > guard.LEAST_ALIKE)


HALF_ROWS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "right": (lambda own, noise: own, True),
    "one row of sixteen": (lambda own, noise: tilted(own, noise, 0.2, 16), True),
    "every eighth row, a little": (lambda own, noise: tilted(own, noise, 0.86, 8), False),
    "every eighth row zero": (lambda own, noise: tilted(own, noise, 0.0, 8) * 0, False),
    "every eighth row too short": (lambda own, noise: lengthened(own, 0.45, 8), False),
    "every eighth row a bit short": (lambda own, noise: lengthened(own, 0.9, 8), True),
    "half the rows": (lambda own, noise: lengthened(own, 3, 2), False),
}


def tilted(own: Tensor, noise: Tensor, cosine: float, each: int) -> Tensor:
    found = own.clone()
    found[::each] = (cosine * own + (1 - cosine**2) ** 0.5 * noise)[::each]
    return found


def lengthened(own: Tensor, factor: float, each: int) -> Tensor:
    found = own.clone()
    found[::each] *= factor
    return found


@pytest.mark.parametrize("case", HALF_ROWS)
def test_half_precision_is_judged_by_its_worst_rows(case: str) -> None:
    x, by_logits, draw = torch.rand(16, 500), torch.rand(16, 3), torch.Generator().manual_seed(0)
    own, noise = F.normalize(torch.randn(2, 16, 500, generator=draw), dim=2)
    noise = F.normalize(noise - (noise * own).sum(1, keepdim=True) * own)
    change, fine = HALF_ROWS[case]
    found, told = change(own, noise), list[float]()
    ways = guard.Ways(
        searched=lambda at, some: found, given=lambda at, some: own, plain=lambda at, some: own,
        measured=told.append,
    )  # fmt: skip
    assert guard.agrees(ways, x, by_logits, found, torch.bfloat16) == fine
    assert len(told) == fine


class Rough(nn.Module):
    """Logits that are almost linear, with ripples whose gradient no bfloat16 tells."""

    def __init__(self, ripples: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.own, self.ripples = nn.Linear(64, 64), nn.Linear(64, 5), ripples

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x.flatten(1))
        logits: Tensor = self.own(h + self.ripples * (3000 * h).sin())
        return logits


@pytest.mark.parametrize(("ripples", "far"), [(0.0, False), (0.0003, True)])
def test_the_cosine_in_half_precision_is_told_and_a_poor_one_warned_of(
    ripples: float, far: bool, logged: Logged
) -> None:
    frozen = fa.freeze(Rough(ripples).eval(), "bf16")
    for _ in range(2):
        frozen.input_gradient(X, Y)
    assert frozen.search_dtype == torch.bfloat16
    told = [note for note in frozen.notes if "mean cosine with the model's" in note]
    assert len(told) == 1
    assert (float(told[0].split()[-1]) < 0.8) == far
    assert [record.levelname for record in logged.records] == ["WARNING"] * far
