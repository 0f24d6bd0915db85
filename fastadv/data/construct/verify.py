"""Whether a finished set is what its card says: by itself, with its base, and with its source model."""

from collections.abc import Callable, Iterator, Mapping
from math import inf, isclose
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastadv._checks import check_count
from fastadv.data.construct._base import Base, weights_or_code
from fastadv.data.construct._build import ticks
from fastadv.data.construct.constructed import ConstructedSet, measured
from fastadv.data.imageset import check_classes, to_unit
from fastadv.data.shards import INDEX, read_shards, shard_count, shard_name
from fastadv.engine import Prepared, prepare
from fastadv.engine.copying.twin import dtype_of
from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.identity import agree, plain, rounding
from fastadv.threat import THREATS

STORED = {"images", "labels", "original_labels", "ids", "predicted", "distance"}
STORED |= {"objective_before", "objective_after"}


def verify_constructed(
    folder: str | PathLike[str],
    base: Dataset[Any] | None = None,
    model: nn.Module | Prepared | None = None,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Verify a finished set, and measure its figures again.

    With the folder alone it verifies the hashes of index and shards, that each shard is there and no other,
    types, shapes and ranges of what they hold, and the figures on the card.

    Args:
        folder: of the set.
        base: the data set it was made from. Its labels, and the distance of each image from where its search
            started, must be those that are stored. None leaves this out.
        model: the source network. The classes it gives to the images must be those that are stored; they may
            differ where two logits are equal up to the rounding of another machine. None leaves this out.
        batch_size: images passed at once.
        progress: called with (images done, images to do).

    Returns:
        What was measured, by the names on the card.

    Raises:
        CorruptFileError: a shard is missing, damaged or foreign, or a figure differs; the message names each
            of them.
        InputError: `base` or `model` is another than that on the card.
    """
    check_count("batch_size", batch_size, 1)
    path = Path(folder)
    tensors, index = read_shards(path)
    _raise(path, [*_contents(path, tensors, index)])
    made = ConstructedSet(tensors, index["card"])
    again = measured(tensors, made.num_classes)
    wrong = [*_figures(made, again)]
    tick = ticks(progress, len(made) * ((base is not None) + (model is not None)))
    if base is not None:
        wrong += _with_base(made, base, batch_size, tick)
    if model is not None:
        again["fooling_rate"], differing = _with_model(made, model, batch_size, tick)
        wrong += differing
    _raise(path, wrong)
    return again


def _raise(folder: Path, wrong: list[str]) -> None:
    if wrong:
        raise CorruptFileError(
            f"{folder}: expected the set that its card describes, got one that differs: {'; '.join(wrong)}; "
            "build it again in another folder"
        )


def _contents(folder: Path, tensors: Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the shards and with the types, shapes and ranges of what they hold."""
    config = index["config"]
    count = config["base"]["samples"]
    shards = shard_count(count, config["shard_size"])
    if (listed := len(index["shards"])) != shards:
        yield f"shards in {INDEX}: expected {shards}, got {listed}"
    known = {shard_name(k) for k in range(shards)}
    for name in sorted({path.name for path in folder.glob("shard-*.safetensors")} - known):
        yield f"{name}: expected {shards} shards, got another file of one"
    if config != index["card"]["config"]:
        yield "card: expected the configuration of the shards, got another"
    if missing := STORED - tensors.keys():
        yield f"shards: expected {', '.join(sorted(missing))} in them, got none"
        return
    images, ids = tensors["images"], tensors["ids"]
    kind, shape = str(images.dtype).removeprefix("torch."), list(images.shape[1:])
    if kind != config["dtype"]:
        yield f"type of the images: expected {config['dtype']}, got {kind}"
    if (wanted := config["base"].get("shape", shape)) != shape:
        yield f"shape of an image: expected {wanted}, got {shape}"
    if not ids.equal(torch.arange(count)):
        yield f"sample numbers: expected 0 to {count - 1} in their order, got others"
    try:
        ConstructedSet(tensors, index["card"])
        for name in ("original_labels", "predicted"):
            check_classes(tensors[name], config["classes"], name)
    except InputError as error:
        yield str(error)


def _figures(made: ConstructedSet, again: Mapping[str, Any]) -> Iterator[str]:
    """Figures of the card that are not those of the tensors, and distances beyond the budget."""
    card = made.card["measured"]
    for name in sorted(card.keys() & again.keys()):
        there, here = card[name], again[name]
        near = isinstance(here, float) and isclose(there, here, rel_tol=1e-9)
        if not (there == here or near):
            yield f"{name}: expected {there} as on the card, got {here}"
    radius = made.card["config"]["threat"]["radius"]
    if isinstance(radius, int | float) and again["distance_max"] > radius * (1 + 1e-6):
        yield f"distance_max: expected at most the radius {radius}, got {again['distance_max']}"


def _with_base(
    made: ConstructedSet, dataset: Dataset[Any], batch_size: int, tick: Callable[[int], None]
) -> Iterator[str]:
    """Yield labels and distances that are not those of the base."""
    config = made.card["config"]
    base = Base(dataset, torch.device("cpu"))
    there, here = config["base"], plain(base.fingerprint())
    if not agree(there, here):
        known, got = (
            f"{base['name']} of {base['samples']} images with the hash {base['data_hash']}"
            for base in (there, here)
        )
        raise InputError(f"base: expected that on the card, {known}, got {got}")
    threat = THREATS[config["threat"]["norm"]](inf)  # a distance does not depend on the radius
    # written in place: small tensors that stay would keep the heap from taking the batches' memory again
    found, distance = torch.empty_like(made.original_labels), torch.empty(len(made))
    for ids in torch.split(made.ids, batch_size):
        x, y = base.fetch(ids)
        center = base.start(config.get("start"), x, ids, config["seed"])
        found[ids], distance[ids] = y, threat.distance(to_unit(made.take(ids)), center).float()
        tick(len(ids))
    stored = made.figures["distance"]
    yield from _rows("label of the base", made.original_labels, found, made.original_labels != found)
    yield from _rows(
        "distance from the start", stored, distance, ~distance.isclose(stored, rtol=1e-5, atol=1e-6)
    )


def _rows(what: str, stored: Tensor, found: Tensor, differing: Tensor) -> Iterator[str]:
    if differing.any():
        k, count = int(differing.nonzero()[0]), int(differing.sum())
        values = f"expected {stored[k]:.6g} as stored, got {found[k]:.6g}"
        yield f"{what}: {count} differ, the first is that of sample {k}: {values}"


def _with_model(
    made: ConstructedSet, model: nn.Module | Prepared, batch_size: int, tick: Callable[[int], None]
) -> tuple[float, list[str]]:
    """Return the fooling rate measured again, and where the model says other classes than those stored."""
    source = prepare(model, freeze=True)
    config = made.card["config"]
    there, here = config["model"], plain(weights_or_code(source.model, config.get("identity")))
    if {name: there.get(name) for name in here} != here:
        known = {name: there[name] for name in ("class", "hash", "function") if name in there}
        raise InputError(f"model: expected that on the card, {known}, got {here}; give its weights")
    device = source.device or torch.device("cpu")
    within = rounding(dtype_of(source.model) if isinstance(source.model, nn.Module) else None)
    stored = made.figures["predicted"]
    predicted, tied = torch.empty_like(stored), torch.empty(len(made), dtype=torch.bool)
    for ids in torch.split(made.ids, batch_size):
        logits = source.verdict(to_unit(made.take(ids)).to(device)).double().cpu()
        lead = logits.amax(1) - logits.gather(1, stored[ids, None])[:, 0]
        predicted[ids], tied[ids] = logits.argmax(1), lead <= within * logits.square().mean(1).sqrt()
        tick(len(ids))
    differing = (predicted != stored) & ~tied
    rate = float((predicted == made.labels).double().mean())
    return rate, [
        f"fooling_rate: expected {made.card['measured']['fooling_rate']} as on the card, got {rate}; {text}"
        for text in _rows("class that the model gives", stored, predicted, differing)
    ]
