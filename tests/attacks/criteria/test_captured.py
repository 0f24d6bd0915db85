"""Steps on other outputs, replayed as CUDA graphs, find what single steps find."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv as fa
from tests.attacks.test_captured import L2, Attack, Net, attack, both, captured, made  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("captured", "asked_alone", "search_copy")]


def dense(self: Net, x: Tensor) -> Tensor:
    return self.parts[0](x.double()).float()


OTHERS = {
    "signs": (Net, lambda z: (z > 0).long(), fa.attacks.Signs()),
    "share": (made(dense), lambda z: z.argmax(1), fa.attacks.Share(0.4)),
    "beyond": (Net, lambda z: None, fa.attacks.Beyond(0.2)),
}


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize(
    ("case", "run"),
    [("signs", attack("apgd", steps=50)), ("share", attack("pgd")), ("beyond", attack("mim", L2))],
)
def test_replays_find_what_steps_find(
    case: str,
    run: Attack,
    stop_early: bool,
    captured: list[int],  # noqa: F811
) -> None:
    make, labels, criterion = OTHERS[case]

    def judged(model: Any, x: Tensor, y: Tensor) -> Any:
        with torch.no_grad():
            y = labels(make()(x))
        return run(model, x, y, criterion=criterion, stop_early=stop_early)

    both(make, judged, calls=3, counts=9)
    assert captured
