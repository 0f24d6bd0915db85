"""Networks of timm and torchvision by name, in the normalization that they were trained with."""

import importlib
from typing import Any

from torch import nn

from fastadv._checks import check_choice, meant
from fastadv._extras import need
from fastadv.errors import InputError
from fastadv.models._common import first_weights
from fastadv.models.adapt import adapt, carried
from fastadv.models.normalized import STATISTICS

SOURCES = ("timm", "torchvision")


def create_from(
    source: str, name: str, *, classes: int | None = None, seed: int | None = None, pretrained: bool = False,
    **options: Any,
) -> nn.Module:  # fmt: skip
    """Return a network of a source, of images in [0, 1]; untrained, it has so many classes."""
    told: dict[str, Any] = dict(zip(("mean", "std"), STATISTICS["imagenet"], strict=True))
    options.pop("shape", None)  # networks of images take any size
    package: Any = importlib.import_module("fastadv._torchvision").models  # which timm imports, too
    if source == "timm":
        need(source)
        package = importlib.import_module(source)
        make, known, told = package.create_model, package.list_models(), {}  # the network knows its own
        options["pretrained"] = pretrained
    else:
        make, known = package.get_model, package.list_models(module=package)
    try:
        if source != "timm" and (weights := options.get("weights", "DEFAULT" if pretrained else None)):
            members = package.get_model_weights(name).__members__
            member = members[check_choice("weights", weights, members)]
            # fetched and read without pickle first: torchvision itself unpickles the file
            member.get_state_dict(progress=False, check_hash=True, weights_only=True)
            told, pretrained, options["weights"] = {"preprocessing": member}, True, member
        if classes is not None and not pretrained:
            options.setdefault("num_classes", classes)
        with first_weights(seed):
            net = make(name, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        hint = "" if name in known else meant(name, known)
        raise InputError(f"model '{source}:{name}': {error}{hint}") from error
    return adapt(net, **(told or {"preprocessing": carried(net)}))
