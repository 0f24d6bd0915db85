"""Memory that is used again shows in no result, on any thread, and gradients in bfloat16 change no attack."""

from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.attacks.core import search
from fastadv.engine import search_twin
from tests.engine.nets import convnet, images


def test_a_direction_stays_in_the_precision_of_the_search() -> None:
    x, y = images()
    for precision, dtype, expected in (
        ("bf16", torch.float32, torch.bfloat16),
        ("bf16", torch.float64, torch.float64),
        ("fp32", torch.float32, torch.float32),
    ):
        frozen = fa.freeze(convnet().eval(), precision)  # type: ignore[arg-type]
        assert frozen.input_gradient(x.to(dtype), y, direction=True)[2].dtype == expected
        assert frozen.input_gradient(x.to(dtype), y)[2].dtype == dtype


def test_neither_the_default_device_nor_the_inference_mode_of_the_caller_counts() -> None:
    x, y = images()
    expected = fa.freeze(convnet().eval(), "bf16").input_gradient(x, y)[2]
    with torch.inference_mode():
        frozen = fa.freeze(convnet().eval(), "bf16")
    assert frozen.input_gradient(x[:0].double(), y[:0])[2].shape == (0, 2, 8, 8)
    with torch.device("meta"):
        assert torch.equal(frozen.input_gradient(x, y)[2], expected)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [("pgd", fa.Linf(0.05)), ("mim", fa.L2(0.5)), ("fgsm", fa.L1(3.0)), ("pgd", fa.L0(4))],
)
def test_gradients_in_bfloat16_change_no_attack(
    attack: str, threat: fa.Threat, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images()
    run = partial(getattr(fa.attacks, attack), **({} if attack == "fgsm" else {"steps": 3}))
    found = run(fa.freeze(convnet().eval(), "bf16"), x, y, threat)
    for module in (search, search_twin):
        monkeypatch.setattr(module, "may_be_narrow", lambda gradient, x: False)
    wide = run(fa.freeze(convnet().eval(), "bf16"), x, y, threat)
    assert torch.equal(found.x_adv, wide.x_adv)
    assert torch.equal(found.loss, wide.loss)
    assert (found.x_adv != x).any()
