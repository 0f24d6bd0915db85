"""A finished set is what its card says; any difference is named."""

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from fastadv.data import verify_constructed
from fastadv.data.construct import verify
from fastadv.data.construct._base import Base
from fastadv.data.imageset import to_unit
from fastadv.data.shards import read_shards, shard_name, write_index, write_shard
from fastadv.errors import CorruptFileError
from fastadv.threat import L0, L1, L2

from .sets import CLASSES, fixed_shift, non_robust, random_target, robust, toy_base, toy_model

OPTIONS = {"steps": 3, "shard_size": 8, "batch_size": 5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    random_target(toy_model(), toy_base(20), threat=L2(2.0), out_dir=folder, **OPTIONS)
    return folder


@pytest.fixture
def done(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def falsify(folder, change, remeasured=False):
    """Write the set again, with new hashes, after `change`; `remeasured`: its card fits the tensors then."""
    mapped, index = read_shards(folder)
    tensors = {name: t if isinstance(t, torch.Tensor) else t.joined() for name, t in mapped.items()}
    config, card = index["config"], index["card"]
    change(tensors, config, card)
    if remeasured:
        card["measured"] = verify.measured(tensors, CLASSES)
    for path in folder.iterdir():
        path.unlink()
    size, count = config["shard_size"], len(next(iter(tensors.values())))
    written = [
        write_shard(folder, k, {name: t[start : start + size] for name, t in tensors.items()}, config)
        for k, start in enumerate(range(0, count, size))
    ]
    write_index(folder, card, config, written)


def assert_measured(made, base, threat):
    """Labels, classes and distances are those of the base and the model, by hand."""
    config = made.card["config"]
    start, made_of = config.get("start"), Base(base, torch.device("cpu"))
    center = made_of.start(start, to_unit(base.x), made.ids, config["seed"])
    assert made.original_labels.equal(base.y)
    with torch.no_grad():
        predicted = toy_model().eval()(to_unit(made.x)).argmax(1)
    assert made.figures["predicted"].equal(predicted)
    distance = threat.distance(to_unit(made.x), center).float()
    torch.testing.assert_close(made.figures["distance"], distance)
    measured = made.card["measured"]
    assert measured["label_counts"] == [int((made.y == k).sum()) for k in range(CLASSES)]
    assert measured["distance_mean"] == pytest.approx(float(distance.double().mean()), rel=1e-6)
    assert measured["distance_max"] == pytest.approx(float(distance.max()), rel=1e-6)
    assert measured["fooling_rate"] == float((predicted == made.y).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("construct", "options"),
    [
        (robust, {"start": "noise", "seed": 3}),
        (non_robust, {"dtype": "float32"}),
        (random_target, {"threat": L1(3.0), "step_size": None}),
        (fixed_shift, {"threat": L0(5), "step_size": None, "dtype": "float32"}),
    ],
)
def test_a_set_is_what_its_card_says(tmp_path, construct, options):
    base = toy_base(20)
    made = construct(toy_model(), base, out_dir=tmp_path, **OPTIONS, **options)
    assert verify_constructed(tmp_path) == made.card["measured"]
    assert_measured(made, base, options.get("threat", L2(0.5)))
    assert made.card["config"]["model"]["class"] == "Sequential"
    assert re.fullmatch("[0-9a-f]{16}", made.card["config"]["model"]["hash"])


def test_every_bad_shard_is_named(done):
    whole = (done / shard_name(1)).read_bytes()
    (done / shard_name(7)).write_bytes(whole)
    with pytest.raises(CorruptFileError, match=r"shard-00007\.safetensors: expected 3 shards"):
        verify_constructed(done)
    (done / shard_name(0)).unlink()
    (done / shard_name(2)).write_bytes(whole[:-3])
    with pytest.raises(CorruptFileError) as caught:
        verify_constructed(done)
    text = str(caught.value)
    assert "shard-00000.safetensors: expected a shard, got no file" in text
    assert "shard-00002.safetensors: expected a whole shard" in text
    assert "shard-00001" not in text
    assert "\n" not in text


def test_shards_that_changed_places_and_that_are_of_another_set_are_named(done, tmp_path):
    first, second = (done / shard_name(k) for k in (0, 1))
    (done / "aside").write_bytes(first.read_bytes())
    second.rename(first)
    (done / "aside").rename(second)
    with pytest.raises(CorruptFileError, match=r"expected shard 0 .*; .*expected shard 1 ") as caught:
        verify_constructed(done)
    assert "shard-00002" not in str(caught.value)
    other = tmp_path / "other"
    random_target(toy_model(), toy_base(20), threat=L2(2.0), out_dir=other, **OPTIONS, seed=1)
    (other / "index.json").write_bytes((done / "index.json").read_bytes())
    with pytest.raises(CorruptFileError, match=r"shard-00000.*got one of another set"):
        verify_constructed(other)


def test_a_whole_shard_that_is_not_the_one_listed_is_named(done):
    mapped, index = read_shards(done)
    tensors = {name: t if isinstance(t, torch.Tensor) else t.joined() for name, t in mapped.items()}
    write_shard(done, 2, {name: t[15:19] for name, t in tensors.items()}, index["config"])
    with pytest.raises(CorruptFileError, match=r"shard-00002.*expected the shard that index\.json lists"):
        verify_constructed(done)


Change = Callable[[Any, Any, Any], object]


def _card(name, value):
    return lambda tensors, config, card: card["measured"].update({name: value})


def _row(name, value):
    return lambda tensors, config, card: tensors[name][3].fill_(value)


def _fewer(tensors, config, card):
    tensors.update({name: tensor[:16] for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_row("labels", 4), "label_counts: expected"),
        (_row("images", 1), "data_hash: expected"),
        (_card("fooling_rate", 0.125), "fooling_rate: expected 0.125 as on the card, got"),
        (_card("distance_mean", 0.125), "distance_mean: expected 0.125 as on the card, got"),
        (_card("samples", 21), "samples: expected 21 as on the card, got 20"),
        (_row("distance", 2.125), "distance_max: expected at most the radius 2.0, got 2.125"),
        (_fewer, "samples: expected 20 as on the card, got 16"),
    ],
)
def test_a_set_that_differs_from_its_card(done, change, says):
    falsify(done, change)
    with pytest.raises(CorruptFileError, match=re.escape(says)):
        verify_constructed(done)


@pytest.mark.parametrize(("factor", "whole"), [(1 + 5e-7, True), (1 + 5e-6, False)])
def test_distances_exceed_the_radius_by_rounding_alone(done, factor, whole):
    falsify(done, lambda tensors, *_: tensors["distance"][3].fill_(2.0 * factor), remeasured=True)
    error = pytest.raises(CorruptFileError, match="distance_max: expected at most the radius")
    with nullcontext() if whole else error:
        verify_constructed(done)
