"""Classifiers: images in [0, 1] of shape [B, C, H, W] to logits [B, K]."""

import importlib
from typing import TYPE_CHECKING, Any

from fastadv.models.adapt import adapt
from fastadv.models.bpda import bpda
from fastadv.models.logits import logits
from fastadv.models.registry import BUILT_IN, create, names
from fastadv.models.weights import load_weights, read_weights, save_weights
from fastadv.models.wrappers import STATISTICS, Binarized, Ensemble, Normalized, Smoothed, representation
from fastadv.models.zero_shot import zero_shot
from fastadv.models.zoo import robustbench, robustbench_entries

if TYPE_CHECKING:
    from fastadv.models.abs import ABS
    from fastadv.models.small import LeNet as LeNet
    from fastadv.models.small import LogisticRegression as LogisticRegression
    from fastadv.models.small import SchottCNN as SchottCNN
    from fastadv.models.small import SoftmaxRegression as SoftmaxRegression
    from fastadv.models.small import WongCNN as WongCNN

# The networks are made by `create`; their classes are here by name, and in no list.
__all__ = [
    "ABS",
    "STATISTICS",
    "Binarized",
    "Ensemble",
    "Normalized",
    "Smoothed",
    "adapt",
    "bpda",
    "create",
    "load_weights",
    "logits",
    "names",
    "read_weights",
    "representation",
    "robustbench",
    "robustbench_entries",
    "save_weights",
    "zero_shot",
]

# Imported when they are asked for: ResNets need torchvision, which takes longer than all the rest.
_LATE = {attribute: module for module, _, attribute in (path.partition(":") for path in BUILT_IN.values())}
_LATE |= {"ABS": "fastadv.models.abs"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
