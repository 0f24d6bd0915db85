"""The zoo's own code: nets made by the package `robustbench`, and the layout of their files.

`python -m tests.models.robustbench_zoo.peer`, with the package on PYTHONPATH, writes layouts.json.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fastadv import _torchvision  # noqa: F401 - so that the package can import torchvision
from fastadv.models.zoo.entries import Entry, robustbench_entries

LAYOUTS = Path(__file__).with_name("layouts.json")


@cache
def package() -> ModuleType | None:
    """Its model zoo, or None where it does not import."""
    had = "pkg_resources" in sys.modules
    sys.modules.setdefault("pkg_resources", ModuleType("pkg_resources"))  # imported there, not used for nets
    try:
        return importlib.import_module("robustbench.model_zoo.models")
    except ImportError:
        return None
    finally:
        if not had:
            sys.modules.pop("pkg_resources", None)


def made(entry: Entry) -> nn.Module:
    """The entry's net by the package. Entries that are newer than it are made of the same classes."""
    zoo = package()
    assert zoo is not None
    boards = {dataset.value: boards for dataset, boards in zoo.model_dicts.items()}[entry.dataset]
    listed = {threat.value: entries for threat, entries in boards.items()}.get(entry.threat, {})
    if entry.name in listed:
        net: nn.Module = listed[entry.name]["model"]()
        return net
    depth, width = (entry.net.options[key] for key in ("depth", "widen_factor"))
    if entry.net.name.startswith("dm"):
        classes = importlib.import_module("robustbench.model_zoo.architectures.dm_wide_resnet")
        mean, std = entry.constants or ((), ())
        return classes.DMWideResNet(  # type: ignore[no-any-return]
            num_classes=entry.classes, depth=depth, width=width, activation_fn=nn.SiLU, mean=mean, std=std
        )
    classes = importlib.import_module("robustbench.model_zoo.architectures.wide_resnet")
    sub = entry.net.unused is not None
    return classes.WideResNet(depth, entry.classes, width, sub_block1=sub)  # type: ignore[no-any-return]


def layout_name(entry: Entry) -> str:
    """What the layout of an entry's file depends on."""
    return f"{entry.net.name} {entry.classes}" + (" mu sigma" if entry.stored else "")


def seal(layout: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256 of names and shapes, in the order of names."""
    lines = sorted(f"{name} {list(shape)}\n" for name, shape in layout)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def layouts() -> dict[str, str]:
    """The seals of all layouts, by the package's code."""
    seals = {}
    for entry in robustbench_entries():
        with torch.device("meta"):
            net = made(entry) if layout_name(entry) not in seals else None
        if net is not None:
            seals[layout_name(entry)] = seal((name, each.shape) for name, each in net.state_dict().items())
    return seals


if __name__ == "__main__":
    LAYOUTS.write_text(json.dumps(layouts(), indent=2, sort_keys=True) + "\n")
