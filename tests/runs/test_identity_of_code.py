"""Work with code whose source cannot be read is kept under an `identity`, and without one not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import construct
from fastadv.errors import InputError
from tests.data.sets import toy_base, toy_model


def built(text: str) -> Any:
    """A function or class as a console makes it."""
    made: dict[str, Any] = {"torch": torch, "nn": nn, "fa": fa, "__name__": "console"}
    exec(text, made)
    return made["own"]


RECIPE = """
def own(model, x, y, *, ids=None, seed=0):
    return torch.nn.functional.cross_entropy(model(x), y)
"""
ATTACK = """
def own(model, x, y, *, ids):
    return fa.attacks.fgsm(model, x, y, fa.Linf(0.1), ids=ids)
"""
MODEL = "weight = torch.linspace(-1, 1, 320).view(64, 5)\ndef own(x): return x.flatten(1) @ weight"


BASE = toy_base(6, eight_bit=False)


def trained(run_dir: Path | None, **options: Any) -> Any:
    return list(fa.train.fit(toy_model(), BASE, built(RECIPE), epochs=1, run_dir=run_dir, **options))


def evaluated(run_dir: Path | None, **options: Any) -> Any:
    return fa.evaluate(toy_model(), BASE, {"own": built(ATTACK)}, run_dir=run_dir, **options)


def constructed(run_dir: Path | None, resume: bool = False, **options: Any) -> Any:
    options |= {"out_dir": run_dir, "shard_size": 3}
    return construct.random_target(built(MODEL), BASE, threat=fa.L2(0.5), steps=1, **options)


WORK = [trained, evaluated, constructed]


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_an_identity_is_asked_for_where_the_source_cannot_be_read(tmp_path, work):
    work(None)  # nothing is kept
    with pytest.raises(
        InputError, match=r"identity: .* source of console\.own cannot be read.*pass identity="
    ):
        work(tmp_path / "run")
    work(tmp_path / "run", identity="first")
    work(tmp_path / "run", identity="first", resume=True)
    with pytest.raises(InputError, match=r"another identity=? \(first there, second here\)"):
        work(tmp_path / "run", identity="second", resume=True)
