"""Rewrites are one list, and each is switched off by its name."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv as fa
from fastadv.engine.cpu import onednn, winograd
from fastadv.engine.rewrites import NAMES, REWRITES, applicable
from fastadv.errors import InputError
from tests.engine.test_rewrite import All

pytestmark = [
    pytest.mark.usefixtures("small_ones_too"),
    pytest.mark.skipif(
        not winograd.available(torch.float32), reason="torch was built without oneDNN, or fastadv unbuilt"
    ),
]


class Net(All):
    """Something for each rewrite."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.elu(self.wide(F.relu(self.norm(self.thin(x)))))
        h = F.instance_norm(h.view(len(h), -1, 8).view_as(h))
        logits: Tensor = self.last(h.flatten(1))
        return logits


X, Y = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)
NOTES = {rewrite.name: rewrite.note for rewrite in REWRITES} | {
    "fold": "folded 1 BatchNorm",
    "channels-last": "channels-last",
}


def notes_of(frozen: fa.Frozen) -> set[str]:
    """The rewrites that its passes have used, after one of several rows and one of a single row."""
    frozen.input_gradient(X, Y)
    frozen.input_gradient(X[:1], Y[:1])
    return {name for name, note in NOTES.items() if note in frozen.notes}


@pytest.mark.parametrize(
    ("off", "by"),
    [
        *((off, "argument") for off in ((), *((name,) for name in NAMES), NAMES)),
        (("fold", "thin"), "environment"),
    ],
)
def test_each_is_left_out_by_its_name(off: tuple[str, ...], by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net().eval()
    if by == "environment":
        monkeypatch.setenv("FASTADV_WITHOUT", ", ".join(off))
    frozen = fa.freeze(model, **({"without": off} if by == "argument" else {}))
    used = notes_of(frozen)
    assert not used & set(off)
    # Winograd's method takes channels-last activations, which the model fails with where views stay views
    needless = {"winograd", "views"} if {"channels-last", "views"} & set(off) else set()
    assert used | set(off) | needless >= set(NAMES)
    assert (f"without {', '.join(off)}" in frozen.notes) == bool(off)
    torch.testing.assert_close(frozen(X), model(X).detach(), rtol=1e-4, atol=1e-5)


def test_each_says_for_which_model_it_is() -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 3000), nn.ReLU(), nn.Linear(3000, 4))

    def names(model: nn.Module, dtype: torch.dtype = torch.float32, exact: bool = False) -> list[str]:
        return [rewrite.name for rewrite in applicable(model, dtype, exact)]

    assert names(Net()) == list(NAMES)
    assert names(Net(), exact=True) == ["thin", "norms"]
    assert "onednn" not in names(Net(), torch.bfloat16)
    assert names(mlp) == ["thin", "onednn", "norms"]
    assert names(nn.Sequential(nn.Flatten(), nn.Linear(64, 4))) == ["thin", "norms"]
    assert names(Net().to("meta")) == ["fold", "views", "channels-last"]


def test_linear_layers_stay_where_onednn_is_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda: False)
    assert "onednn" not in [rewrite.name for rewrite in applicable(Net(), torch.float32, False)]


@pytest.mark.parametrize("given", [("winogrand",), ["fold", 3], "winograd", 7])
def test_names_that_do_not_exist(given: Any) -> None:
    with pytest.raises(InputError, match="without: expected names"):
        fa.freeze(Net(), without=given)


def test_a_variable_that_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADV_WITHOUT", "fold,winogrand")
    with pytest.raises(InputError, match="FASTADV_WITHOUT: expected names out of fold, winograd"):
        fa.freeze(Net())


def test_it_is_an_option_that_a_run_is_known_by(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, frozen = fa.freeze(Net()), fa.freeze(Net(), without={"winograd", "fold"})
    assert "without" not in plain.describe()
    assert json.loads(json.dumps(frozen.describe())) == plain.describe() | {"without": ["fold", "winograd"]}
    assert fa.freeze(frozen) is frozen
    assert fa.freeze(frozen, without=["winograd", "fold"]) is frozen
    assert fa.freeze(frozen, "bf16").options.without == ("fold", "winograd")
    assert fa.freeze(frozen, without=()).describe() == plain.describe()
    monkeypatch.setenv("FASTADV_WITHOUT", "thin")
    assert fa.freeze(frozen).options.without == ("fold", "winograd", "thin")
    again = fa.freeze(plain)
    assert fa.freeze(again) is again
