"""The result of a construction: a data set that can be saved, loaded and traced back to its base."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.card import card
from fastadv.data import shards
from fastadv.data._rows import MappedRows
from fastadv.data.imageset import UNIT, ImageSet
from fastadv.errors import InputError
from fastadv.hashes import data_hash, digest
from fastadv.runs import processes
from fastadv.runs.folder import RunFolder


class ConstructedSet(ImageSet):
    """Images made from a base set, with labels to train on: an `ImageSet` that knows each image's origin.

    `images` and `labels` are the same as `x` [N, ...] as stored (uint8 or float32), and `y`, the labels
    to train on, int64 [N]. `ids` int64 [N] are the numbers of the base samples that the images were made for,
    `original_labels` int64 [N] the labels of these. `figures` are what the construction measured for each
    sample: `predicted` (the source model's class for the stored image), `objective_before` and
    `objective_after` (of the search), `distance` (from the start, in the threat's norm). The images of a set
    in a folder, whose shards must stay there, are mapped: `take` and all that passes over a set reads those
    it needs, `x` reads all into memory.

    Args:
        tensors: images, labels, ids, original labels and figures by name.
        card: how it was made: configuration, versions, measured figures.
    """

    def __init__(self, tensors: Mapping[str, Tensor | MappedRows], card: dict[str, Any]) -> None:
        config = card["config"]
        low, high = map(float, config.get("threat", {}).get("box", UNIT))  # JSON has no infinity
        columns = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        super().__init__(
            tensors["images"], columns["labels"], config["classes"], config["name"], note=config["note"],
            box=(low, high), ndim=len(tensors["images"].shape),
        )  # fmt: skip
        self.ids, self.original_labels, self.card = columns["ids"], columns["original_labels"], card
        known = ("images", "labels", "ids", "original_labels")
        self.figures = {name: tensor for name, tensor in columns.items() if name not in known}

    @property
    def images(self) -> Tensor:
        """The images as stored, [N, ...]."""
        return self.x

    def describe(self) -> dict[str, Any]:
        """Return what the card of a result on this set says of it: the set, and how it was made."""
        return super().describe() | {"card": self.card}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is stored, in memory, by name."""
        return {"images": self.x, **self._columns()}

    def _columns(self) -> dict[str, Tensor]:
        named = {"labels": self.y, "ids": self.ids, "original_labels": self.original_labels}
        return named | self.figures

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the set into a folder as shards and an index; shards of this set that are there are kept."""
        config = self.card["config"]
        size, total = config["shard_size"], config["base"]["samples"]
        if self.ids.tolist() != list(range(total)):
            raise InputError(
                f"{folder}: expected a whole constructed set to save, got a subset or another order of it"
            )
        kept = []
        with RunFolder(folder, name="folder") as opened:
            for k, at in enumerate(torch.split(self.ids, size)):
                part = {name: tensor[at].cpu() for name, tensor in self._columns().items()}
                part["images"] = self.take(at).cpu()
                path = opened.path / shards.shard_name(k)
                if path.exists():
                    kept.append(shards.read_shard(opened.path, k, config))
                else:
                    kept.append(shards.write_shard(opened.path, k, part, config))
                if kept[-1].digest != digest(part):
                    raise InputError(
                        f"{path}: expected no file or the shard of this set, got one with other images; "
                        "choose another folder"
                    )
            shards.write_index(opened.path, self.card, config, kept)


def load_constructed(folder: str | PathLike[str]) -> ConstructedSet:
    """Load the set that a construction or `ConstructedSet.save` wrote, and verify each shard.

    Its images are mapped, not read into memory: the folder must stay where it is.

    Args:
        folder: of the set.

    Returns:
        A `ConstructedSet`.

    Raises:
        CorruptFileError: the index or a shard is missing, truncated, damaged or foreign; the message names
            the file.
    """
    tensors, index = shards.read_shards(Path(folder))
    return ConstructedSet(tensors, index["card"])


def indexed(folder: Path, config: Mapping[str, Any], ordered: list[shards.Shard]) -> ConstructedSet:
    """Return the set of all shards of a folder, and write its index; all processes call it together."""
    tensors = shards.joined(ordered)
    made_card = processes.from_first(
        lambda: shards.write_index(folder, make_card(tensors, config), config, ordered)["card"]
    )
    return ConstructedSet(tensors, made_card)


def make_card(tensors: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return card("constructed set", config, **measured(tensors, len(config["classes"])))


def measured(tensors: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Return the figures of a set that holds `tensors`, as they stand on its card; see docs/data.md."""
    labels = tensors["labels"]
    return {
        "samples": len(labels),
        "label_counts": labels.bincount(minlength=classes).tolist(),
        "kept_label": _mean(labels == tensors["original_labels"]),
        "fooling_rate": _mean(tensors["predicted"] == labels),
        "objective_before": _mean(tensors["objective_before"]),
        "objective_after": _mean(tensors["objective_after"]),
        "non_finite": int((~tensors["objective_after"].isfinite()).sum()),
        "distance_mean": _mean(tensors["distance"]),
        "distance_max": float(tensors["distance"].max()),
        "data_hash": data_hash(tensors["images"], labels),
    }


def _mean(values: Tensor) -> float:
    values = values.double()
    return float(values[values.isfinite()].mean()) if values.isfinite().any() else 0.0
