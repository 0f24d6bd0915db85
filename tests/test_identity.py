"""What a run is: equal descriptions for equal runs, in any process, and different ones for any other."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv._identity import check_same, describe, describe_data, describe_model, plain, probe
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.train import PGDTraining, Standard
from fastadv.train.augment import crop_flip, shift

FACTOR = 2.0


def scaled(x):
    return FACTOR * x


def twice(x):
    return scaled(scaled(x))


def countdown(n):
    return countdown(n - 1) if n else 0


def make(value, *, keyword=1.0):
    def inner(x, default=value, *, other=keyword):
        return x * value + default + other

    return inner


class Loss:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, x):
        return x * self.weight

    def method(self, x):
        return x


VALUES = {
    "number": 0.1,
    "other number": 0.2,
    "infinity": math.inf,
    "nan": math.nan,
    "tensor": torch.arange(3),
    "other tensor": torch.arange(1, 4),
    "named": crop_flip,
    "other name": shift,
    "one minus": lambda done: 1 - done,
    "one plus": lambda done: 1 + done,
    "two minus": lambda done: 2 - done,
    "attribute": lambda done: done.real,
    "other attribute": lambda done: done.imag,
    "closure of 1": make(1.0),
    "closure of 2": make(2.0),
    "keyword of 2": make(1.0, keyword=2.0),
    "closure of a tensor": make(torch.ones(2)),
    "closure of another tensor": make(torch.zeros(2)),
    "default": lambda done, power=1: done**power,
    "other default": lambda done, power=2: done**power,
    "nested": lambda done: (lambda: done + 1)(),
    "nested otherwise": lambda done: (lambda: done + 2)(),
    "partial": functools.partial(scaled, 1),
    "other argument": functools.partial(scaled, 2),
    "keyword": functools.partial(make, keyword=1),
    "other keyword": functools.partial(make, keyword=2),
    "recursive": countdown,
    "through another": twice,
    "recipe": PGDTraining(fa.Linf(0.1), steps=2),
    "other steps": PGDTraining(fa.Linf(0.1), steps=3),
    "other radius": PGDTraining(fa.Linf(0.2), steps=2),
    "other norm": PGDTraining(fa.L2(0.1), steps=2),
    "other box": PGDTraining(fa.Linf(0.1, box=(-1.0, 1.0)), steps=2),
    "other loss": PGDTraining(fa.Linf(0.1), steps=2, loss="margin"),
    "loss by function": PGDTraining(fa.Linf(0.1), steps=2, loss=lambda z, y, t: -z[:, 0]),
    "by another function": PGDTraining(fa.Linf(0.1), steps=2, loss=lambda z, y, t: -z[:, 1]),
    "no attack": Standard(),
    "object": Loss(1),
    "other attribute of an object": Loss(2),
    "object in an object": Loss(Loss(1)),
    "other object in an object": Loss(Loss(2)),
    "method": Loss(1).method,
    "method of another object": Loss(2).method,
    "module": math,
    "other module": json,
}


def test_different_values_have_different_descriptions():
    described = {name: json.dumps(describe(value)) for name, value in VALUES.items()}
    names = {text: name for name, text in described.items()}
    assert len(names) == len(VALUES), set(VALUES) - set(names.values())


def test_a_description_is_the_same_in_every_process_and_holds_no_address():
    root = Path(fa.__file__).parents[1]
    code = (
        "import json, test_identity as t\n"
        "print(json.dumps({name: t.describe(value) for name, value in t.VALUES.items()}))"
    )
    text = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{root}:{Path(__file__).parent}", "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert __name__ == "test_identity"
    assert json.loads(text) == {name: describe(value) for name, value in VALUES.items()}
    assert json.loads(text)["infinity"] == "inf"
    assert " at 0x" not in text


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch):
    before = describe(scaled), describe(twice)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    assert describe(scaled) != before[0]
    assert describe(twice) != before[1]


def test_objects_that_hold_themselves():
    first = Loss(1)
    first.weight = first
    assert describe(first) == {"name": f"{__name__}.Loss", "weight": f"{__name__}.Loss"}


def test_what_a_function_fills_is_not_part_of_it():
    seen: list[int] = []

    def counting(x):
        seen.append(1)
        return x

    before = describe(counting)
    counting(0)
    assert describe(counting) == before


def test_models_by_class_shapes_types_and_flags_not_by_weights():
    described = [
        describe_model(nn.Linear(2, 3)),
        describe_model(nn.Linear(3, 2)),
        describe_model(nn.Linear(2, 3).double()),
        describe_model(nn.Linear(2, 3).requires_grad_(False)),
        describe_model(nn.Sequential(nn.Linear(2, 3))),
    ]
    assert len(set(described)) == 5
    assert describe_model(nn.Linear(2, 3)) == described[0]


def test_data_by_size_pixels_and_labels():
    x, y = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
    base = describe_data(ImageSet(x, y, 2, "a"))
    assert describe_data(ImageSet(x.clone(), y.clone(), 2, "another name")) == base
    assert describe_data(ImageSet(x, 1 - y, 2, "a")) != base
    assert describe_data(ImageSet(1 - x, y, 2, "a")) != base
    assert describe_data(ImageSet(x[:3], y[:3], 2, "a")) != base

    class Listed(list):
        targets = (0, 1)

    with_targets = Listed([1, 2])
    with_targets.targets = [0, 1]
    others = Listed([1, 2])
    others.targets = [1, 1]
    assert describe_data(with_targets) != describe_data(others)


OUTPUTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))


def agree(first, second):
    try:
        check_same(Path("file"), plain({"model": first}), {"model": second})
    except InputError:
        return False
    return True


def test_probes_agree_within_rounding_and_not_beyond():
    base = probe(OUTPUTS, OUTPUTS)
    noise = torch.randn(OUTPUTS.shape, generator=torch.Generator().manual_seed(4))
    assert agree(base, probe(OUTPUTS + 1e-4 * noise, OUTPUTS + 1e-4 * noise))
    assert agree(base, probe(OUTPUTS.double(), OUTPUTS.double()))
    for other in (
        OUTPUTS + 0.02 * noise,
        2 * OUTPUTS,
        -OUTPUTS,
        OUTPUTS.flip(0),
        OUTPUTS.flip(1),
        OUTPUTS[:7],
    ):
        assert not agree(base, probe(other, other))
    one = OUTPUTS.clone()
    one[3, 2] += 0.1
    assert not agree(base, probe(one, one))
    assert agree(
        probe(OUTPUTS, OUTPUTS, torch.bfloat16), probe(OUTPUTS + 0.005 * noise, OUTPUTS + 0.005 * noise)
    )


def test_probes_of_outputs_that_are_not_finite():
    broken = OUTPUTS.clone()
    broken[2, 1] = torch.nan
    assert agree(probe(broken, broken), probe(broken, broken))
    assert not agree(probe(broken, broken), probe(OUTPUTS, OUTPUTS))
    assert not agree(probe(OUTPUTS, OUTPUTS), probe(broken, broken))
    nothing = torch.full((2, 3), torch.nan)
    assert agree(probe(nothing, nothing), probe(nothing, nothing))


def test_random_functions_have_no_probe():
    random = probe(OUTPUTS, OUTPUTS + 0.1)
    assert random["values"] == "random"
    assert agree(random, probe(OUTPUTS + 1, OUTPUTS))
    assert not agree(random, probe(OUTPUTS, OUTPUTS))


@pytest.mark.parametrize("stored", [{"model": 1}, {"model": 1, "seed": None}])
def test_missing_and_empty_entries_are_one(stored):
    check_same(Path("file"), stored, {"model": 1})
