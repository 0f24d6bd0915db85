"""A finished set is verified by itself, with its base, and with its source model; any difference is named."""

import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.data import ImageSet, load_constructed, verify_constructed
from fastadv.data.construct import verify
from fastadv.data.shards import read_shards, shard_name, write_index, write_shard
from fastadv.errors import CorruptFileError, InputError
from fastadv.threat import L0, L1, L2, Linf

from .sets import ALL, CLASSES, fixed_shift, random_target, robust, toy_base, toy_model

OPTIONS = {"steps": 3, "shard_size": 8, "batch_size": 5}


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("made")
    random_target(toy_model(), toy_base(20), threat=L2(2.0), out_dir=folder, **OPTIONS)
    return folder


@pytest.fixture
def done(made: Path, tmp_path: Path) -> Path:
    """A finished set that a test may falsify."""
    return shutil.copytree(made, tmp_path / "set")


def falsify(folder: Path, change: Callable[[Any, Any, Any], object], remeasured: bool = False) -> None:
    """Write the set again, with new hashes, after `change` of its tensors, its configuration and its card.

    remeasured: its card holds the figures of the tensors as they are then.
    """
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


@pytest.mark.slow
@pytest.mark.parametrize(("construct", "dtype"), [*zip(ALL, ["uint8", "float32"] * 2, strict=True)])
def test_a_set_is_what_its_card_says(tmp_path, construct, dtype):
    base, model = toy_base(20), toy_model()
    made = construct(model, base, out_dir=tmp_path, dtype=dtype, **OPTIONS)
    for arguments in ({}, {"base": base}, {"model": model}, {"base": base, "model": fa.freeze(model)}):
        found = verify_constructed(tmp_path, batch_size=7, **arguments)
        assert found == made.card["measured"]
    assert model.training


@pytest.mark.slow
def test_other_starts_and_norms(tmp_path):
    base, model = toy_base(20), toy_model()
    robust(model, base, out_dir=tmp_path / "noise", start="noise", seed=3, **OPTIONS)
    threats = [Linf(0.1), L1(3.0), L0(5)]
    for k, threat in enumerate(threats):
        random_target(model, base, out_dir=tmp_path / str(k), threat=threat, step_size=None, **OPTIONS)
    for folder in tmp_path.iterdir():
        verify_constructed(folder, base, model)


def test_what_is_measured_is_in_the_set(done):
    made = load_constructed(done)
    measured = made.card["measured"]
    assert measured["label_counts"] == [int((made.y == k).sum()) for k in range(CLASSES)]
    served = made.x.double() / 255
    distance = (served - toy_base(20).x.double() / 255).flatten(1).norm(dim=1)
    assert measured["distance_mean"] == pytest.approx(float(distance.mean()), rel=1e-6)
    assert measured["distance_max"] == pytest.approx(float(distance.max()), rel=1e-6)
    with torch.no_grad():
        fooled = (toy_model().eval()(served.float()).argmax(1) == made.y).double().mean()
    assert measured["fooling_rate"] == float(fooled)
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


Change = Callable[[Any, Any, Any], object]


def _card(name: str, value: Any) -> Change:
    return lambda tensors, config, card: card["measured"].update({name: value})


def _row(name: str, value: Any) -> Change:
    return lambda tensors, config, card: tensors[name][3].fill_(value)


def _config(name: str, value: Any) -> Change:
    return lambda tensors, config, card: [each.update({name: value}) for each in (config, card["config"])]


def _shape(tensors: Any, config: Any, card: Any) -> None:
    tensors["images"] = tensors["images"][..., :7].contiguous()


def _fewer(tensors: Any, config: Any, card: Any) -> None:
    tensors.update({name: tensor[:16] for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_row("labels", 4), "label_counts: expected"),
        (_row("images", 1), "data_hash: expected"),
        (_card("fooling_rate", 0.125), "fooling_rate: expected 0.125 as on the card, got"),
        (_card("distance_mean", 0.125), "distance_mean: expected 0.125 as on the card, got"),
        (_card("samples", 21), "samples: expected 21 as on the card, got 20"),
        (_row("labels", CLASSES), "labels from 0 to 4"),
        (_row("original_labels", -1), "original_labels: expected labels from 0 to 4, got -1"),
        (_row("predicted", 7), "predicted: expected labels from 0 to 4, got 0 to 7"),
        (_row("ids", 9), "sample numbers: expected 0 to 19"),
        (_row("distance", 2.125), "distance_max: expected at most the radius 2.0, got 2.125"),
        (_config("dtype", "float32"), "type of the images: expected float32, got uint8"),
        (_config("classes", list("abc")), "expected labels from 0 to 2"),
        (_shape, "shape of an image: expected [1, 8, 8], got [1, 8, 7]"),
        (_fewer, "shards in index.json: expected 3, got 2"),
        (lambda tensors, config, card: tensors.pop("distance"), "expected distance in them, got none"),
        (
            lambda tensors, config, card: card.update(config={**card["config"], "steps": 99}),
            "card: expected the configuration of the shards",
        ),
    ],
)
def test_a_set_that_differs_from_its_card(done, change, says):
    falsify(done, change)
    with pytest.raises(CorruptFileError, match=re.escape(says)):
        verify_constructed(done)


def check(folder: Path, *words: str, named: bool, **given: Any) -> None:
    """What is verified is whole, or an error names all of this."""
    with pytest.raises(CorruptFileError) if named else nullcontext() as caught:
        verify_constructed(folder, **given)
    assert not named or all(word in str(caught.value) for word in words)


def test_distances_and_labels_are_those_of_the_base(done):
    def change(tensors: Any, config: Any, card: Any) -> None:
        tensors["distance"][[4, 9]] *= 0.5
        tensors["original_labels"][6] = (tensors["original_labels"][6] + 1) % CLASSES

    falsify(done, change, remeasured=True)
    verify_constructed(done)
    words = (
        "label of the base: 1 differ, the first is that of sample 6",
        "distance from the start: 2 differ, the first is that of sample 4",
    )
    check(done, *words, named=True, base=toy_base(20))


@pytest.mark.parametrize(
    ("row", "factor", "says"),
    [
        (4, 1 + 1e-6, ""),
        (4, 1 - 3e-5, "distance from the start: 1 differ"),
        (4, 1 + 3e-5, "distance from the start: 1 differ"),
        (None, 1 + 5e-7, ""),
        (None, 1 + 5e-6, "distance_max: expected at most the radius"),
    ],
)
def test_distances_may_differ_by_rounding_alone(done, row, factor, says):
    def change(tensors: Any, config: Any, card: Any) -> None:
        at = tensors["distance"].argmax() if row is None else row
        tensors["distance"][at] = (2.0 if row is None else float(tensors["distance"][at])) * factor

    assert 0.1 < float(load_constructed(done).figures["distance"][4]) < 1.99
    falsify(done, change, remeasured=True)
    check(done, says, named=bool(says), base=toy_base(20) if row else None)


def test_another_base_or_model_is_refused(done):
    base = toy_base(20)
    x = base.x.clone()
    x[5, 0, 1, 1] ^= 1
    for other in (toy_base(19), ImageSet(x, base.y, base.classes, base.name)):
        with pytest.raises(InputError, match=r"base: expected that on the card, toy of 20 images"):
            verify_constructed(done, other)
    with pytest.raises(InputError, match=r"model: expected that on the card, .*'Sequential'.*got"):
        verify_constructed(done, model=toy_model(seed=3))
    with pytest.raises(InputError, match=r"model: expected that on the card.*'function'"):
        verify_constructed(done, model=fa.freeze(lambda x: x.flatten(1)[:, :CLASSES]))


def test_the_fooling_rate_is_measured_again(done):
    """Classes stored as if the model had been fooled everywhere."""
    true = load_constructed(done).card["measured"]["fooling_rate"]
    assert 0 < true < 1
    falsify(done, lambda tensors, *_: tensors.update(predicted=tensors["labels"].clone()), remeasured=True)
    verify_constructed(done, toy_base(20))
    words = f"fooling_rate: expected 1.0 as on the card, got {true}", "class that the model gives"
    check(done, *words, named=True, model=toy_model())


class Tied(nn.Module):
    """Two logits are equal but for a little, which falls elsewhere in larger batches."""

    def __init__(self, little: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.little, self.zero = little, nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.ones(len(x), CLASSES) + 0.1 * (torch.arange(CLASSES) < 2)
        logits[:, len(x) % 2] += self.little
        return logits.to(self.zero.dtype) + self.zero * x.flatten(1)[:, :CLASSES]


@pytest.mark.parametrize(
    ("little", "dtype"), [(1e-6, torch.float32), (0.02, torch.bfloat16), (0.02, torch.float32)]
)
def test_logits_that_are_equal_up_to_the_rounding_of_their_format_are_no_difference(tmp_path, little, dtype):
    model = Tied(little, dtype)
    fixed_shift(model, toy_base(22), out_dir=tmp_path, steps=1, batch_size=2)
    stored = load_constructed(tmp_path)
    assert stored.figures["predicted"].eq(0).all()
    if (little, dtype) == (0.02, torch.float32):
        return check(
            tmp_path, "class that the model gives: 22 differ", named=True, model=model, batch_size=11
        )
    found = verify_constructed(tmp_path, model=model, batch_size=11)
    assert found["fooling_rate"] == float((stored.labels == 1).double().mean())
    assert found["fooling_rate"] != stored.card["measured"]["fooling_rate"]
    # a tenth below the two is no rounding
    falsify(tmp_path, lambda tensors, *_: tensors["predicted"].fill_(2), remeasured=True)
    check(tmp_path, "class that the model gives: 22 differ", named=True, model=model, batch_size=11)
