"""Data sets: images as float32 in [0, 1], labels, and stable sample numbers."""

from typing import Any

from fastadv.data._batches import batches
from fastadv.data._load import load, names
from fastadv.data.folder import FolderSet
from fastadv.data.imageset import ImageSet

__all__ = ["FolderSet", "ImageSet", "batches", "construct", "load", "load_constructed", "names"]


def __getattr__(name: str) -> Any:
    # Constructions attack models: who only loads images need not import all that.
    if name in ("construct", "load_constructed"):
        from importlib import import_module

        construct = import_module("fastadv.data.construct")
        return construct if name == "construct" else construct.load_constructed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
