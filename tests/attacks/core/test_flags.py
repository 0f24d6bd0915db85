"""Flags are made when they are first read, of what a result holds."""

import gc
import pickle
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import AttackResult, Share

X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
THREAT = fa.Linf(0.01)


def squashed(frozen: bool = False) -> AttackResult:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Softmax(1))
    y = net(X).argmax(1)
    return fa.attacks.pgd(net, X, y, THREAT, steps=2, loss="ce", freeze=frozen)


def test_flags_are_read_late_and_stay() -> None:
    out = squashed()
    assert not isinstance(vars(out)["flags"], tuple)
    assert "bounded_outputs" in str(out)
    flags = out.flags
    assert vars(out)["flags"] is flags
    changed = replace(squashed(), attack="own")
    assert (changed.attack, changed.flags) == ("own", flags)
    assert replace(out, flags=("own: one",)).flags == ("own: one",)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_result_keeps_no_model_alive_and_is_picklable(frozen: bool) -> None:
    gone: list[weakref.ref[Any]] = []

    class Net(nn.Sequential):
        def __init__(self, *parts: nn.Module) -> None:
            super().__init__(*parts)
            gone.append(weakref.ref(self))

    net = Net(nn.Flatten(), nn.Linear(16, 5), nn.Softmax(1)).eval()
    out = fa.attacks.pgd(net, X, net(X).argmax(1), THREAT, steps=2, freeze=frozen)
    del net
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    again = pickle.loads(pickle.dumps(out))
    assert again.flags == out.flags != ()


def test_labels_that_change_after_the_call_change_no_flag() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    net[1].weight.data.mul_(1e-3)
    net[1].bias.data.copy_(torch.tensor([5.0, 0, 0, 0, 0]))  # the others are alike, but for their label
    y = net(X).argmax(1)
    call = {"steps": 1, "loss": "ce", "stop_early": False}
    first, second = (fa.attacks.pgd(net, X, y, fa.Linf(1e-4), **call) for _ in range(2))  # type: ignore[arg-type]
    assert any(flag.startswith("soft_logits") for flag in first.flags)
    y.copy_((y + 1) % 5)
    assert second.flags == first.flags


def test_outputs_of_any_shape_are_not_kept_for_flags() -> None:
    net = nn.Conv2d(1, 3, 3, padding=1)
    out = fa.attacks.pgd(net, X, net(X).argmax(1), THREAT, steps=1, criterion=Share(0.5))
    assert vars(out)["flags"] == ()


def test_logits_that_are_not_finite_at_x_are_not_what_an_attack_met() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    y, spoiled = net(X).argmax(1), X.flatten(1).sum(1).argmax()

    def model(x: torch.Tensor) -> torch.Tensor:
        return net(x) / (x.flatten(1).sum(1, keepdim=True) < X[spoiled].sum() - 0.2)

    out = fa.attacks.pgd(model, X, y, THREAT, steps=1)
    assert [flag for flag in out.flags if flag.startswith("failed: the model's")]
    assert not [flag for flag in out.flags if "met NaN" in flag]


def test_labels_that_are_wrong_are_flagged_unless_targets_are_given() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    decided = net(X).argmax(1)  # the targets of all, who are reached before the attack
    y = (decided + 1) % 5
    wrong, aimed = (fa.attacks.pgd(net, X, y, THREAT, steps=1, targets=t) for t in (None, decided))
    assert [flag for flag in wrong.flags if flag.startswith("labels")]
    assert not [flag for flag in aimed.flags if flag.startswith("labels")]
