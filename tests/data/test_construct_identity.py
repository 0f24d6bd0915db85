"""A folder takes shards of one construction alone: a change is refused, or makes no difference to the set."""

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.threat import L2, Linf

from .sets import ALL, fixed_shift, random_target, robust, toy_base, toy_model


def options(**changed):
    return {"steps": 2, "shard_size": 8, "batch_size": 5} | changed


def refused(named, construct, *args, **given):
    folder = given["out_dir"]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=rf"another {named}[ .;].*another folder"):
        construct(*args, **options(**given))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("construct", [robust, fixed_shift], ids=lambda construct: construct.__name__)
def test_every_changed_option_is_refused_or_honored(tmp_path, construct):
    base = toy_base(20)
    made = construct(toy_model(), base, out_dir=tmp_path, **options())
    (tmp_path / "shard-00001.safetensors").unlink()  # there is work left to do
    changes = {"steps": 3, "step_size": 0.2, "threat": L2(0.25), "seed": 1, "dtype": "float32"}
    changes["shard_size"] = 10
    changes |= {"start": "noise", "module": "1"} if construct is robust else {"step_size": None}
    for name, value in changes.items():
        refused(name, construct, toy_model(), base, out_dir=tmp_path, **{name: value})
    refused("threat", construct, toy_model(), base, out_dir=tmp_path, threat=Linf(0.5))
    refused("construction", ALL[ALL.index(construct) - 1], toy_model(), base, out_dir=tmp_path)
    again = construct(toy_model(), base, out_dir=tmp_path, **options(batch_size=3))
    assert torch.equal(again.x, made.x)
    assert torch.equal(again.labels, made.labels)


def test_another_base_is_refused(tmp_path):
    base = toy_base(20)
    random_target(toy_model(), base, out_dir=tmp_path, **options())
    pixel, label = base.x.clone(), base.y.clone()
    pixel[3, 0, 0, 0] ^= 1
    label[[0, 1]] = label[[1, 0]]
    for other in (
        ImageSet(pixel, base.y, base.classes, base.name),
        ImageSet(base.x, label, base.classes, base.name),
        ImageSet(base.x, base.y, tuple("vwxyz"), base.name),
        ImageSet(base.x, base.y, base.classes, base.name, note="JPEG copies"),
        base.subset(range(19)),
        sorted(base, key=lambda item: item[1]),
    ):
        refused("(base|classes|note)", random_target, toy_model(), other, out_dir=tmp_path)


class Noisy(nn.Module):
    """Its answers are those under a fixed seed."""

    def __init__(self, seed=2):
        super().__init__()
        self.net = toy_model(seed)

    def forward(self, x):
        logits = self.net(x)
        return logits + torch.randn_like(logits)


MODELS = {
    "weights": (toy_model(), toy_model(5)),
    "precision": (fa.freeze(toy_model()), fa.freeze(toy_model(), "bf16")),
    "one image in 40": (
        lambda x: toy_model()(x),
        lambda x: toy_model()(torch.where(x.flatten(1).sum(1).frac().view(-1, 1, 1, 1) < 0.5, x, 1 - x)),
    ),
    "random": (Noisy(), Noisy(5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_another_model_is_refused(tmp_path, name):
    first, second = MODELS[name]
    base = toy_base(20)
    made = fixed_shift(first, base, out_dir=tmp_path, **options())
    place = r"model.frozen.precision \(fp32 there, bf16 here\)" if name == "precision" else "model"
    refused(place, fixed_shift, second, base, out_dir=tmp_path)
    (tmp_path / "shard-00002.safetensors").unlink()
    again = fixed_shift(first, base, out_dir=tmp_path, **options())
    assert len(again) == 20
    assert name == "random" or torch.equal(again.x, made.x)
