"""Classifiers: images in [0, 1] of shape [B, C, H, W] to logits [B, K]."""

import importlib
from typing import TYPE_CHECKING, Any

from fastadv.models.adapt import adapt
from fastadv.models.binarized import Binarized
from fastadv.models.bpda import Substitute, bpda
from fastadv.models.cnn import SchottCNN
from fastadv.models.densenet import DenseNet
from fastadv.models.ensemble import Ensemble
from fastadv.models.inception import Inception
from fastadv.models.logistic import LogisticRegression
from fastadv.models.maxout import Maxout
from fastadv.models.maxout_cnn import MaxoutCNN
from fastadv.models.normalized import STATISTICS, Normalized
from fastadv.models.preact_resnet import PreActResNet18
from fastadv.models.quadratic import Quadratic
from fastadv.models.rbf import RBF
from fastadv.models.registry import create, names
from fastadv.models.representation import representation
from fastadv.models.sigmoids import Sigmoids
from fastadv.models.small_cnn import SmallCNN
from fastadv.models.softmax import SoftmaxRegression
from fastadv.models.vgg import VGG
from fastadv.models.weights import load_weights, read_weights, save_weights
from fastadv.models.wide_resnet import WideResNet
from fastadv.models.wong_cnn import WongCNN
from fastadv.models.zoo import robustbench, robustbench_entries

if TYPE_CHECKING:
    from fastadv.models.abs import ABS
    from fastadv.models.nearest_neighbor import NearestNeighbor
    from fastadv.models.resnet import ResNet18, ResNet50

__all__ = [
    "ABS",
    "RBF",
    "STATISTICS",
    "VGG",
    "Binarized",
    "DenseNet",
    "Ensemble",
    "Inception",
    "LogisticRegression",
    "Maxout",
    "MaxoutCNN",
    "NearestNeighbor",
    "Normalized",
    "PreActResNet18",
    "Quadratic",
    "ResNet18",
    "ResNet50",
    "SchottCNN",
    "Sigmoids",
    "SmallCNN",
    "SoftmaxRegression",
    "Substitute",
    "WideResNet",
    "WongCNN",
    "adapt",
    "bpda",
    "create",
    "load_weights",
    "names",
    "read_weights",
    "representation",
    "robustbench",
    "robustbench_entries",
    "save_weights",
]


# ResNets need torchvision, whose import takes longer than all the rest; ABS and its like are seldom wanted.
_LATE = {
    "ABS": "fastadv.models.abs",
    "NearestNeighbor": "fastadv.models.nearest_neighbor",
    "ResNet18": "fastadv.models.resnet",
    "ResNet50": "fastadv.models.resnet",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
