"""torchvision, importable beside a CPU-only PyTorch. Nothing else in fastadv imports it directly.

PyPI's torchvision is built for CUDA. Beside a PyTorch without CUDA its C++ library does not load. Its import
then fails because it attaches fake kernels to two operators, `nms` and `qnms`, which the library would have
declared. fastadv uses neither, only data sets, transforms and networks: declaring the two schemas is enough.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from fastadv._extras import need

# Loading and declaring operators is not type-hinted in torch, nor is anything in torchvision.
_torch: Any = torch


def _operators_load() -> bool:
    """Return whether torchvision's own C++ library can be loaded here."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in Path(folder).glob("_C*.*"):
            try:
                _torch.ops.load_library(str(library))
            except (OSError, RuntimeError):  # RuntimeError: its operators are declared already
                continue
            return True
    return False


def _declare() -> Any:
    """Declare the operators that are not declared yet; they last as long as the object returned."""
    operators = _torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        # another library may have needed the same two
        if not hasattr(_torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators


need("torchvision")
if "torchvision" not in sys.modules and not _operators_load():
    _operators = _declare()

datasets: Any = importlib.import_module("torchvision.datasets")
models: Any = importlib.import_module("torchvision.models")
functional: Any = importlib.import_module("torchvision.transforms.functional")
functional_v2: Any = importlib.import_module("torchvision.transforms.v2.functional")
