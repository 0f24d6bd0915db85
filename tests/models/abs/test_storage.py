"""Files: what is saved comes back, damage and foreign files are named."""

import json

import pytest
import torch

from fastadv.errors import CorruptFileError
from fastadv.models import ABS, SmallCNN, save_weights
from fastadv.runs.files import load_tensors, save_tensors

from .nets import images, tiny


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
    save_tensors(path, {k: v for k, v in tensors.items() if k != "weight_1"}, metadata)
    rejected("weight_1")
    save_tensors(path, tensors | {"extra": torch.zeros(1)}, metadata)
    rejected("extra")
    save_tensors(path, tensors | {"weight_0": tensors["weight_0"] * torch.nan}, metadata)
    rejected("NaN")
    save_tensors(path, tensors | {"_prior": torch.zeros(9, 5)}, metadata)
    rejected("prior_latents")
    save_tensors(path, tensors, metadata | {"constants": "{"})
    rejected("constants")
    constants = {k: v for k, v in json.loads(metadata["constants"]).items() if k != "beta"}
    save_tensors(path, tensors, metadata | {"constants": json.dumps(constants)})
    rejected("beta")
    wrong = {"steps": 0, "precision": "fp8", "prune_gain": 3.0, "extra": 1, "strides": 4}
    for name, value in wrong.items():
        constants = json.loads(metadata["constants"]) | {name: value}
        save_tensors(path, tensors, metadata | {"constants": json.dumps(constants)})
        rejected("constants" if name == "strides" else name)
    save_tensors(path, tensors | {"factors": torch.ones(2)}, metadata)
    rejected("factors")
