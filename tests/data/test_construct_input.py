"""Bad input to a construction: each an error that says what was expected and what came."""

import math

import pytest
import torch
from torch import nn

from fastadv.errors import InputError
from fastadv.threat import Linf

from .sets import fixed_shift, random_target, robust, toy_base, toy_model

BOTH = [robust, fixed_shift]  # an inversion and a targeted attack; the other two of each kind check alike


@pytest.mark.parametrize("construct", BOTH)
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
def test_pixels_that_are_not_finite_or_outside_the_box(construct, value):
    base = [toy_base(12)[i] for i in range(12)]  # whose images nobody has checked
    base[7][0][0, 1, 2] = value
    with pytest.raises(InputError, match=r"samples 0 to 11|samples 7 to 7"):
        construct(toy_model(), base, steps=1)


@pytest.mark.parametrize("construct", BOTH)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps: expected an integer >= 1, got 0"),
        ({"threat": Linf(torch.full((12,), 0.1))}, "threat: expected one radius"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": math.nan}, "step_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"shard_size": 0}, "shard_size"),
        ({"dtype": "float64"}, "uint8"),
        ({"rank": 2, "world_size": 2}, "rank"),
    ],
)
def test_options_out_of_range(construct, changed, message):
    with pytest.raises(InputError, match=message):
        construct(toy_model(), toy_base(12), **({"steps": 1} | changed))


@pytest.mark.parametrize("construct", BOTH)
def test_models_that_do_not_fit(construct):
    broken = toy_model()
    nn.init.constant_(broken[3].bias, math.nan)
    for model, says in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "two classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "5 classes of the base, got 4"),
        (broken, "finite"),
    ):
        with pytest.raises(InputError, match=says):
            construct(model, toy_base(12), steps=1)
    with pytest.raises(TypeError, match="iterations"):
        construct(toy_model(), toy_base(12), steps=1, iterations=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"module": "layer4"}, r"expected one of 0, 1, 2, 3, got 'layer4'"),
        ({"module": lambda x: x.reshape(1, -1)}, r"shape \[B, F\].*got torch.float32 \[1, 128\]"),
        ({"module": lambda x: x.long()}, r"of floats.*got torch.int64 \[2, 64\]"),
        ({"start": "zeros"}, "start: expected one of images, noise, got 'zeros'"),
    ],
)
def test_representations_and_starts_that_are_none(options, says):
    with pytest.raises(InputError, match=says):
        robust(toy_model(), toy_base(12), steps=1, **options)


def test_budget_that_8_bits_cannot_hold(tmp_path):
    given = toy_model(), toy_base(12, eight_bit=False)
    options = {"threat": Linf(1e-4), "steps": 2, "out_dir": tmp_path}
    with pytest.raises(InputError, match="use dtype='float32'"):
        random_target(*given, dtype="uint8", **options)
    assert not list(tmp_path.glob("*"))
    random_target(*given, **options)
