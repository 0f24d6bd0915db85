"""Whether a finished set is what its card says."""

from collections.abc import Iterator, Mapping
from math import isclose
from os import PathLike
from pathlib import Path
from typing import Any

from fastadv.data.construct.constructed import ConstructedSet, measured
from fastadv.data.shards import SHARDS, read_shards, shard_name
from fastadv.errors import CorruptFileError
from fastadv.threat import THREATS, Threat


def verify_constructed(folder: str | PathLike[str]) -> dict[str, Any]:
    """Verify a finished set, and measure its figures again.

    It verifies the hashes of index and shards, that each shard is there and no other, and the figures on the
    card. Whether a set comes from a base and a model, its construction tells when it is run again in the
    folder: it refuses the set of others.

    Args:
        folder: of the set.

    Returns:
        What was measured, by the names on the card.

    Raises:
        CorruptFileError: a shard is missing, damaged or foreign, or a figure differs; the message names each
            of them.
    """
    path = Path(folder)
    tensors, index = read_shards(path)
    dataset = ConstructedSet(tensors, index["card"])
    again = measured(tensors, dataset.num_classes)
    count = len(index["shards"])
    others = {file.name for file in path.glob(SHARDS)} - {shard_name(k) for k in range(count)}
    wrong = [f"{name}: expected {count} shards, got another file of one" for name in sorted(others)]
    if wrong := [*wrong, *_figures(dataset, again)]:
        raise CorruptFileError(
            f"{folder}: expected the set that its card describes, got one that differs: {'; '.join(wrong)}; "
            "build it again in another folder"
        )
    return again


def _figures(dataset: ConstructedSet, again: Mapping[str, Any]) -> Iterator[str]:
    """Yield figures of the card that are not those of the tensors, and distances beyond the budget."""
    card = dataset.card["measured"]
    for name in sorted(card.keys() & again.keys()):
        there, here = card[name], again[name]
        near = isinstance(here, float) and isclose(there, here, rel_tol=1e-9)
        if not (there == here or near):
            yield f"{name}: expected {there} as on the card, got {here}"
    threat = dataset.card["config"]["threat"]
    radius, norm = threat["radius"], THREATS.get(threat["norm"], Threat)
    if isinstance(radius, int | float) and again["distance_max"] > norm.edge(radius):
        yield f"distance_max: expected at most the radius {radius}, got {again['distance_max']}"
