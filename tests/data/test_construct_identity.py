"""A folder takes shards of one construction alone: a change is refused, or makes no difference to the set."""

import pytest
import torch

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
    with pytest.raises(InputError, match=rf"another {named}\b.*another folder"):
        construct(*args, **options(**given))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("construct", [robust, fixed_shift], ids=lambda construct: construct.__name__)
def test_every_change_is_refused_or_honored(tmp_path, construct):
    base, model = toy_base(20), toy_model()
    made = construct(model, base, out_dir=tmp_path, **options())
    (tmp_path / "shard-00001.safetensors").unlink()  # there is work left to do
    changes = {"steps": 3, "step_size": 0.2, "threat": L2(0.25), "seed": 1, "dtype": "float32"}
    changes["shard_size"] = 10
    changes |= {"start": "noise", "module": "1"} if construct is robust else {"step_size": None}
    for name, value in changes.items():
        refused(name, construct, model, base, out_dir=tmp_path, **{name: value})
    refused("threat", construct, model, base, out_dir=tmp_path, threat=Linf(0.5))
    refused("construction", ALL[ALL.index(construct) - 1], model, base, out_dir=tmp_path)
    for other, named in ((toy_model(5), "model"), (fa.freeze(model, "bf16"), r"model.frozen")):
        refused(named, construct, other, base, out_dir=tmp_path)
    again = construct(model, base, out_dir=tmp_path, **options(batch_size=3))
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
