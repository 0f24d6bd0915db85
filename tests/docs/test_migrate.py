"""Each row of the migration pages is a call that runs, at the cost that the row names.

The other package's call runs, too, where that package is installed, as by the extra `bench`, or found as
`tests.parity.peers` says.
"""

import re
from importlib.util import find_spec
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
import tests.parity.peers  # noqa: F401  puts the folders of other packages on the path
from fastadv.attacks.core.card import REGISTRY
from fastadv.attacks.masking.flags import SIGNS
from fastadv.train.recipes import RECIPES
from tests.docs.test_pages import BLOCK, DOCS

PAGES = {path.stem: path.read_text() for path in (DOCS / "start" / "migrate").glob("[!i]*.md")}
CODE, COST = re.compile(r"`([^`]+)`"), re.compile(r"([\d,]+|-), ([\d,]+)(: .+)?")
SAMPLES = 2
passes = [0]


class Told(torch.autograd.Function):
    """Count the samples that go forward and those whose gradient comes back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        passes[0] += len(logits)
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        passes[0] += len(gradient)
        return gradient


class Linear(nn.Module):
    """A linear model that counts its passes, and takes what `robustness` and ART give it beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 10)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return Told.apply(self.last(x.flatten(1).float()))


@pytest.fixture(autouse=True)
def _as_they_expect(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # `robustness` asks for it always
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)


def reader() -> dict[str, Any]:
    """What a reader of the pages has; no point within `eps` of the images is a success."""
    torch.manual_seed(0)
    np.random.seed(0)
    model, images = Linear().eval(), 0.3 + 0.4 * torch.rand(200, 3, 8, 8)
    gaps = model(images).topk(2).values.diff(dim=1).squeeze(1).neg()
    x = images[gaps.sort().indices[100 : 100 + SAMPLES]]
    y = model(x).argmax(1)
    names = {
        "fa": fa, "torch": torch, "np": np, "inf": inf, "eps": 1e-3, "alpha": 2e-4, "mean": [0.0] * 3,
        "std": [1.0] * 3, "model": model, "x": x, "y": y, "targets": (y + 1) % 10,
        **dict.fromkeys(("train", "test"), fa.data.ImageSet(x, y, 10, "x")),
        "dataset": SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3)),
    }  # fmt: skip
    names["rules"] = fa.attacks.rules
    return names


def rows(page: str) -> list[list[str]]:
    """Return of each row of a page their call, ours, and what they cost."""
    return [row.strip("| ").split(" | ") for row in PAGES[page].splitlines() if row.startswith("| `")]


def cost(code: str, names: dict[str, Any]) -> tuple[Any, float]:
    passes[0] = 0
    return eval(code, names), passes[0] / SAMPLES


def alike(price: str, spent: float) -> bool:
    """Return whether a cost is that of the page; two passes are the verdicts before and after an attack."""
    return abs(int(price.replace(",", "")) - spent) <= 0.1 * spent + 2


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run(page):
    names = reader()
    for block in BLOCK.findall(PAGES[page]):
        exec(block, names)


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_our_calls(page):
    for row in rows(page):
        check_ours(*row, reader())


def check_ours(theirs: str, ours: str, price: str, names: dict[str, Any]) -> None:
    if not (codes := CODE.findall(ours)):
        assert (ours, price) == ("none", "-")
        return
    out, spent = cost(codes[-1], names)
    if isinstance(out, fa.attacks.AttackResult):
        if ball := re.search(r"fa\.L\w+\([^()]*\)", codes[-1]):
            assert eval(ball[0], names).contains(out.x_adv, names["x"]).all()
        if "model(x) >" not in codes[-1]:  # a label that the call itself asks for
            assert out.forwards + out.backwards == spent * SAMPLES
    assert out is not None
    if price == "-":
        assert "(" not in CODE.findall(theirs)[0] or spent == 0  # nothing to compare
        return
    there, here, why = COST.fullmatch(price).groups()
    assert alike(here, spent), (codes[-1], spent)
    assert why or there == "-" or alike(there, spent)


@pytest.mark.slow
@pytest.mark.docs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_their_calls(page):
    if find_spec(page) is None:
        pytest.skip(f"{page} is not installed")
    before = [line[2:] for line in BLOCK.findall(PAGES[page])[0].splitlines() if line.startswith("# ")]
    for theirs, _, price in rows(page):
        exec("\n".join(before[1:]), names := reader())
        named = COST.fullmatch(price)
        for code in CODE.findall(theirs):
            _, spent = cost(code, names)
            assert named is None or named[1] == "-" or alike(named[1], spent), (code, spent)


def test_the_matrix_counts_what_there_is():
    text = (DOCS / "start" / "compare.md").read_text()
    attacks = REGISTRY.values()
    blind = sum(card.knowledge == "decision" for card in fa.attacks.ATTACKS.values())
    for row in (
        f"| attacks | {len(attacks)} |", f"| by decisions alone | {blind} |",
        f"| minimum norm | {sum(card.minimal for card in attacks)},",
        f"| training | {len(RECIPES)} recipes", f"| signs of masked gradients | {len(SIGNS)},",
    ):  # fmt: skip
        assert row in text, f"docs/start/compare.md lacks {row}"
