"""Data sets: images as float32 in [0, 1], labels, and stable sample numbers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastadv.data._batches import batches
from fastadv.data._load import is_named as is_named
from fastadv.data._load import load, load_folder
from fastadv.data._load import names as names
from fastadv.data.corruption import Corrupt, Corrupted, corrupted
from fastadv.data.folder import FolderSet
from fastadv.data.generated import Mixture, NpzSet
from fastadv.data.imageset import ImageSet
from fastadv.data.pairs import pairs
from fastadv.data.sampling import HeldOut as HeldOut
from fastadv.data.sampling import hold_out
from fastadv.data.saving import save_images

if TYPE_CHECKING:
    from fastadv.data import construct
    from fastadv.data.construct import ConstructedSet, load_constructed, verify_constructed

__all__ = [
    "ConstructedSet",
    "Corrupt",
    "Corrupted",
    "FolderSet",
    "ImageSet",
    "Mixture",
    "NpzSet",
    "batches",
    "construct",
    "corrupted",
    "hold_out",
    "load",
    "load_constructed",
    "load_folder",
    "pairs",
    "save_images",
    "verify_constructed",
]


def __getattr__(name: str) -> Any:
    # Constructions attack models: who only loads images need not import all that.
    if name not in ("construct", "ConstructedSet", "load_constructed", "verify_constructed"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    construct = import_module("fastadv.data.construct")
    return construct if name == "construct" else getattr(construct, name)
