"""Classifiers: images in [0, 1] of shape [B, C, H, W] to logits [B, K]."""

from typing import TYPE_CHECKING, Any

from fastadv.models.cnn import SchottCNN
from fastadv.models.logistic import LogisticRegression
from fastadv.models.normalized import Normalized
from fastadv.models.registry import create, names
from fastadv.models.small_cnn import SmallCNN
from fastadv.models.softmax import SoftmaxRegression
from fastadv.models.weights import load_weights, read_weights, save_weights

if TYPE_CHECKING:
    from fastadv.models.resnet import ResNet18

__all__ = [
    "LogisticRegression",
    "Normalized",
    "ResNet18",
    "SchottCNN",
    "SmallCNN",
    "SoftmaxRegression",
    "create",
    "load_weights",
    "names",
    "read_weights",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    # Only ResNet18 needs torchvision, whose import takes longer than all the rest.
    if name == "ResNet18":
        from fastadv.models.resnet import ResNet18

        return ResNet18
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
