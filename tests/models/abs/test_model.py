"""ABS: inference, logits, confidence, sizes, files, and every bad input."""

import copy
import dataclasses
import json
from functools import partial
from unittest.mock import patch

import pytest
import torch

from fastadv import _waiting, rng
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, save_tensors
from fastadv.models import ABS, SmallCNN, save_weights
from fastadv.models.abs.decoder import DecoderShape
from fastadv.models.abs.prior import draw_prior
from tests.refusals import refuses

from .nets import STRIDES, decoders, images, tiny


def test_descent_improves_on_the_prior_search():
    model = tiny()
    x, _ = images(model)
    first, last = model.infer(x, steps=1), model.infer(x)
    assert (last.loss <= first.loss + 1e-7).all()
    assert last.loss.mean() < first.loss.mean() - 1e-4
    prior = {tuple(z) for z in model.prior_latents.tolist()}
    assert all(tuple(z) in prior for z in first.latents.flatten(0, 1).tolist())


def test_binary_sees_the_threshold_and_weighs_classes():
    factors = [1.0, 0.9, 1.2]
    plain, binary = tiny(), tiny(binary=True, factors=factors)
    x, _ = images(plain)
    x[0, 0, 0, 0] = 0.5
    torch.testing.assert_close(binary(x), plain((x >= 0.5).float()) * torch.tensor(factors))
    assert torch.equal(binary.infer(x).loss, -binary(x))


@pytest.mark.parametrize("size", [8, 12, 28])
def test_the_bank_is_decoded(size):
    shape = DecoderShape.for_images((2, size, size), 3, 2)
    g = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(3, taken, outputs, kernel, kernel, generator=g) * 0.3
        for taken, outputs, kernel in zip(shape.channels, shape.channels[1:], shape.kernels, strict=False)
    ]
    biases = [torch.randn(3, outputs, generator=g) for outputs in shape.channels[1:]]
    model = ABS(weights, biases, shape.strides, prior_samples=150)
    images = model.decoders(model.prior_latents[:, None].expand(-1, 3, -1)).flatten(2).transpose(0, 1)
    torch.testing.assert_close(model.bank(), images, rtol=1e-4, atol=1e-5)


def test_confidence_is_a_graded_softmax():
    model = tiny(scale=30.0, floor=1e-3)
    x, y = images(model)
    graded = (30 * model(x)).exp() + 1e-3
    torch.testing.assert_close(model.confidence(x), graded / graded.sum(1, keepdim=True))
    assert model.confidence(torch.rand(4, 1, 8, 8).round()).amax() < model.confidence(x).amax(1).min()
    model = model.with_options(scale=1e6, floor=0.0)
    assert torch.equal(model.confidence(x).argmax(1), y)
    assert model.confidence(x).isfinite().all()


@pytest.mark.parametrize(("count", "drawn"), [(90, 100), (50, 55)])
def test_the_prior_keeps_the_likeliest_nine_tenths_of_the_draws_in_their_order(count, drawn):
    every = rng.normal(3, rng.derive(7, "abs prior"), torch.arange(drawn))
    least = every.norm(dim=1).sort().values[count - 1]
    assert torch.equal(draw_prior(count, 3, seed=7), every[every.norm(dim=1) <= least])
    refuses("seed", draw_prior, 9, 8, seed=-1)


def test_the_bank_follows_weights_that_are_written_in_inference_mode():
    with torch.inference_mode():
        written, fresh = tiny(), tiny()
        written.bank()
        for model in (written, fresh):
            model.weights[0].mul_(1.5)
        assert torch.equal(written.bank(), fresh.bank())
        assert written.bank() is written.bank()


def test_other_options_for_a_call_and_for_a_model():
    model = tiny(factors=[1.0, 0.9, 1.2])
    x, _ = images(model)
    other = model.options.changed(binary=True, steps=7, precision="bf16", prune=True, scale=3.0, floor=0.1)
    twin = model.with_options(binary=True, steps=7, precision="bf16", prune=True, scale=3.0, floor=0.1)
    assert twin.options == other
    assert not torch.equal(twin.infer(x).loss, model.infer(x).loss)
    mine, theirs = {"steps": 9, "step_size": 0.1}, {"steps": 9}
    inferred = twin.infer(x, **mine)
    assert torch.equal(inferred.loss, twin.with_options(**mine).infer(x).loss)
    assert not torch.equal(inferred.loss, twin.with_options(**theirs).infer(x).loss)
    assert twin.bank() is model.bank()
    assert all(mine is theirs for mine, theirs in zip(twin.buffers(), model.buffers(), strict=True))
    assert twin.double().weights[0].dtype == torch.float64
    assert model.weights[0].dtype == torch.float32
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.options.steps = 3


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
def test_the_loss_is_what_latents_and_reconstruction_say_after_an_exhaustive_search(beta):
    model = tiny(beta=beta)
    x, _ = images(model)
    for steps in (1, 50):
        inferred = model.infer(x, steps=steps)
        assert inferred.reconstruction.shape == (6, 3, 1, 8, 8)
        misfit = (inferred.reconstruction - x[:, None]).flatten(2).square().sum(2)
        torch.testing.assert_close(
            inferred.loss, (misfit + beta / 2 * inferred.latents.square().sum(2)) / 64, rtol=1e-5, atol=1e-7
        )
    every = (x.flatten(1)[:, None, None] - model.bank()).square().sum(3)
    every = every + beta / 2 * model.prior_latents.square().sum(1)
    torch.testing.assert_close(model.infer(x, steps=1).loss, every.amin(2) / 64, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_means_bf16_descent(dtype):
    model = tiny()
    x, y = images(model)
    halved = copy.deepcopy(model).to(dtype)
    assert halved.options.precision == "bf16"
    assert torch.equal(halved.weights[0], model.weights[0])
    assert torch.equal(halved(x).argmax(1), y)
    assert model.double()(x.double()).dtype == torch.float64


class TestBadInput:
    def test_images(self):
        model = tiny()
        for x, word in (
            (torch.rand(2, 1, 9, 9), "shape"),
            (torch.rand(2, 8, 8), "shape"),
            (torch.rand(2, 1, 8, 8) * 255, r"\[0, 1\]"),
            (torch.rand(2, 1, 8, 8) - 1, r"\[0, 1\]"),
            (torch.full((2, 1, 8, 8), torch.nan), r"\[0, 1\]"),
            (torch.tensor([torch.nan, 2.5]).view(2, 1, 1, 1).expand(2, 1, 8, 8), r"\[0, 1\]"),
            (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "floating"),
        ):
            bound = partial(model.lower_bound, y=torch.zeros(2, dtype=torch.int64))
            for call in (model, model.infer, model.confidence, bound):
                refuses(word, call, x)

    def test_pixels_may_leave_the_box_by_rounding_alone(self):
        model, x = tiny(), torch.full((1, 1, 8, 8), 0.5)
        for rounded, wrong in ((-9e-4, -2e-3), (1 + 9e-4, 1 + 2e-3)):
            x[0, 0, 3, 3] = rounded
            assert model(x).isfinite().all()
            x[0, 0, 3, 3] = wrong
            refuses(r"\[0, 1\]", model, x)

    def test_weights(self):
        weights, biases = decoders()
        broken = [w.clone() for w in weights]
        broken[1][0, 0, 0, 0, 0] = torch.nan
        for bad, word in (
            ((broken, biases, STRIDES), "NaN"),
            ((weights[:1], biases, STRIDES), "as many"),
            (([weights[0], weights[1][:, :5]], biases, STRIDES), "each layer"),
            ((weights, [biases[0][:, :5], biases[1]], STRIDES), "biases"),
            (([w[:1] for w in weights], [b[:1] for b in biases], STRIDES), "two classes"),
            ((weights, biases, (1, 0)), "positive"),
        ):
            refuses(word, ABS, *bad, prior_samples=20)

    def test_latents(self):
        model = tiny()
        for prior in (torch.zeros(2, 2), torch.zeros(9, 3), torch.full((9, 2), torch.nan), torch.zeros(9)):
            with pytest.raises(InputError, match="prior_latents"):
                model.prior_latents = prior
        refuses("latents", model.decoders, torch.zeros(2, 3, 5))

    def test_steps(self):
        x, _ = images(tiny())
        for name, value in (("steps", 0), ("steps", 2.5), ("step_size", 0.0), ("step_size", float("nan"))):
            refuses(f"{name}:", tiny().infer, x, **{name: value})


def test_a_gpu_descends_for_all_classes_at_once_and_skips_none():
    pruned = tiny(prune=True, prune_gain=1.0)
    x, _ = images(pruned)
    whole, skipped = pruned.with_options(prune=False)(x), pruned(x)
    assert not torch.equal(skipped, whole)
    with patch.object(_waiting, "AT_ONCE", set()):
        assert torch.equal(pruned(x), whole)


def test_round_trip(tmp_path):
    factors, options = [1.0, 0.9, 1.1], {"input_grad": "unrolled", "prune": True, "prune_gain": 0.4}
    model = tiny(binary=True, factors=factors, scale=7.0, floor=0.25, beta=0.5, max_norm=3.0, **options)
    model = model.with_options(steps=7, step_size=0.1)
    model.card = {"seed": 12}
    x, _ = images(model)
    model.save(tmp_path / "abs.safetensors")
    back = ABS.load(tmp_path / "abs.safetensors")
    assert torch.equal(back(x), model(x))
    assert torch.equal(back.confidence(x), model.confidence(x))
    assert torch.equal(back.prior_latents, model.prior_latents)
    assert (back.options, back.shape) == (model.options, model.shape)
    assert back.card["seed"] == 12
    assert back.card["machine"]["torch"]


WRONG = {"steps": 0, "precision": "fp8", "prune_gain": 3.0, "extra": 1}


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "abs.safetensors"
    tiny().save(tmp_path / "whole.safetensors")
    tensors, metadata = load_tensors(tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()

    def rejected(text):
        with pytest.raises(CorruptFileError, match=text) as raised:
            ABS.load(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)

    path.write_bytes(whole[: len(whole) // 2])
    rejected("whole safetensors")
    save_weights(SmallCNN(), path)
    rejected("ABS.save")
    constants = json.loads(metadata["constants"])
    for text, change in {
        "weight_1": {"weight_1": None},
        "extra": {"extra": torch.zeros(1)},
        "NaN": {"weight_0": tensors["weight_0"] * torch.nan},
        "prior_latents": {"_prior": torch.zeros(9, 5)},
        "factors": {"factors": torch.ones(2)},
    }.items():
        save_tensors(path, {k: v for k, v in (tensors | change).items() if v is not None}, metadata)
        rejected(text)
    for text, change in {
        "beta": {k: v for k, v in constants.items() if k != "beta"},
        "constants": constants | {"strides": 4},
        **{name: constants | {name: value} for name, value in WRONG.items()},
    }.items():
        save_tensors(path, tensors, metadata | {"constants": json.dumps(change)})
        rejected(text)
