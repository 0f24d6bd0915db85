"""Nets by the zoo's own code beside ours, with one state dict: logits and input gradients in float64.

Skipped without the package `robustbench`. `python -m bench.robustbench` compares the large nets, too.
"""

import json
from pathlib import Path

import pytest
import torch

from fastadv import models
from fastadv.models.zoo import find

from .peer import LAYOUTS, answer, layouts, package, ship

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(package() is None, reason="needs the package robustbench: pip install robustbench"),
]
# one of each architecture, each shortcut, padding and way to normalize
NAMES = (
    "cifar10/Linf/Sehwag2021Proxy_R18",
    "cifar10/L2/Engstrom2019Robustness",
    "Andriushchenko2020Understanding",
    "Wong2020Fast",
    "cifar10/L2/Rice2020Overfitting",
    "cifar100/Rice2020Overfitting",
    "cifar100/Rade2021Helper_R18_ddpm",
    "Linf/Rade2021Helper_R18_extra",
    "Carmon2019Unlabeled",
    "cifar10/Hendrycks2019Using",
    "cifar10/L2/Wang2023Better_WRN-28-10",
)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_gradients_are_the_zoos(tmp_path: Path, name: str) -> None:
    entry, x = find(name), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 2])
    logits, gradient = answer(ship(entry, tmp_path / "a.pt"), x, y)
    found, own = answer(models.robustbench(name, tmp_path / "a.pt"), x, y)
    # float64 leaves twelve digits; a net that is another differs in the first
    torch.testing.assert_close(found, logits, rtol=1e-9, atol=1e-9 * logits.abs().max().item())
    torch.testing.assert_close(own, gradient, rtol=1e-9, atol=1e-9 * gradient.abs().max().item())


def test_the_layouts_are_those_of_this_version_of_the_package() -> None:
    assert layouts() == json.loads(LAYOUTS.read_text())
