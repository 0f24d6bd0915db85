"""Losses and weights that are not finite end a run, and reach no checkpoint."""

import math

import pytest
import torch

import fastadv as fa
from fastadv.runs import files
from fastadv.train import Standard

from .nets import net
from .test_fit import train


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_epoch_and_step_and_keeps_the_checkpoint(tmp_path):
    class Bad(Standard):
        def __call__(self, model, x, y, *, ids=None, seed=0):
            Bad.calls += 1
            loss = super().__call__(model, x, y)
            return loss * math.nan if Bad.calls == 10 else loss

    Bad.calls = 0
    model, past = net(), []
    with pytest.raises(FloatingPointError, match="nan in epoch 2 at step 2") as caught:
        past.extend(train(model, recipe=Bad(), run_dir=tmp_path, identity="counts its calls"))
    order = fa.rng.permutation(50, fa.rng.derive(0, "order", 2))[16:24].tolist()
    assert f"(samples {', '.join(map(str, order))})" in str(caught.value)
    assert str(caught.value).endswith(f"{tmp_path / 'checkpoint.safetensors'} is kept")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    Bad.calls = 100
    (report,) = train(recipe=Bad(), run_dir=tmp_path, resume=True, identity="counts its calls")
    assert report.epoch == 2


@pytest.mark.parametrize("every", [None, 2])
def test_weights_that_are_not_finite_reach_no_checkpoint(every, tmp_path):
    """A finite loss may have an infinite gradient; after the last step of an epoch no loss would tell."""
    steps = 7 if every is None else 2

    class Rooted(Standard):
        def __call__(self, model, x, y, *, ids=None, seed=0):
            Rooted.calls += 1
            nothing = sum(weight.sum() for weight in model.parameters()) * 0.0
            return super().__call__(model, x, y) + (nothing.sqrt() if Rooted.calls == 7 + steps else nothing)

    Rooted.calls = 0
    with pytest.raises(FloatingPointError, match="finite weights, got NaN or infinity in ") as caught:
        train(recipe=Rooted(), run_dir=tmp_path, checkpoint_every=every)
    assert str(caught.value).endswith(f"{tmp_path / 'checkpoint.safetensors'} is kept")
    assert Rooted.calls == 7 + steps
    kept, _ = files.load_tensors(tmp_path / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
