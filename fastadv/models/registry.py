"""Models by name: the built-in ones, a user's own as `package.module:function`, and TorchScript files."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastadv._checks import check_choice, meant
from fastadv._extras import need, own
from fastadv.arguments import needed
from fastadv.errors import InputError
from fastadv.models._common import first_weights
from fastadv.models.adapt import adapt, carried
from fastadv.models.weights import load_script
from fastadv.models.wrappers import STATISTICS, Normalized

SOURCES = ("timm", "torchvision")


def create_from(
    source: str, name: str, *, classes: int | None = None, seed: int | None = None, pretrained: bool = False,
    **options: Any,
) -> nn.Module:  # fmt: skip
    """Return a network of a source, of images in [0, 1]; untrained, it has so many classes."""
    normalization: dict[str, Any] = dict(zip(("mean", "std"), STATISTICS["imagenet"], strict=True))
    options.pop("shape", None)  # networks of images take any size
    package: Any = importlib.import_module("fastadv._torchvision").models  # which timm imports, too
    if source == "timm":
        need(source)
        package = importlib.import_module(source)  # whose networks know their normalization
        make, known, normalization = package.create_model, package.list_models(), {}
        options["pretrained"] = pretrained
    else:
        make, known = package.get_model, package.list_models(module=package)
    try:
        if source != "timm" and (weights := options.get("weights", "DEFAULT" if pretrained else None)):
            members = package.get_model_weights(name).__members__
            member = members[check_choice("weights", weights, members)]
            # fetched and read without pickle first: torchvision itself unpickles the file
            member.get_state_dict(progress=False, check_hash=True, weights_only=True)
            normalization, pretrained, options["weights"] = {"preprocessing": member}, True, member
        if classes is not None and not pretrained:
            options.setdefault("num_classes", classes)
        with first_weights(seed):
            net = make(name, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        hint = "" if name in known else meant(name, known)
        raise InputError(f"model '{source}:{name}': {error}{hint}") from error
    return adapt(net, **(normalization or {"preprocessing": carried(net)}))


BUILT_IN = {
    "softmax": "fastadv.models.small:SoftmaxRegression",
    "logistic": "fastadv.models.small:LogisticRegression",
    "cnn": "fastadv.models.small:SchottCNN",
    "wong_cnn": "fastadv.models.small:WongCNN",
    "lenet": "fastadv.models.small:LeNet",
    "small_cnn": "fastadv.models.small:SmallCNN",
    "resnet18": "fastadv.models.resnet:ResNet18",
    "resnet50": "fastadv.models.resnet:ResNet50",
    "preact_resnet18": "fastadv.models.preact_resnet:PreActResNet18",
    "wide_resnet": "fastadv.models.preact_resnet:WideResNet",
    "wrn_28_10": "fastadv.models.preact_resnet:wrn_28_10",
    "wrn_34_10": "fastadv.models.preact_resnet:wrn_34_10",
}


def names() -> tuple[str, ...]:
    """Return the names that `create` knows.

    Returns:
        A tuple of names.
    """
    return tuple(BUILT_IN)


def factory(name: str) -> Callable[..., Any]:
    """Return what makes the models of that name; InputError where there is none."""
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute and name not in BUILT_IN and Path(name).is_file():
        return partial(load_script, name)
    if module_name in SOURCES and attribute:
        return partial(create_from, module_name, attribute)
    if module_name == "rb":
        raise InputError(f"model {name!r}: use fastadv.models.robustbench({attribute!r}, weights)")
    if not module_name or not attribute or module_name.startswith("."):
        others = (
            ", timm:NAME, torchvision:NAME, in commands rb:NAME, a TorchScript file, or your own as "
            "package.module:function"
        )
        check_choice("model", name, BUILT_IN, others)
    found: Callable[..., Any] = own("model", BUILT_IN.get(name, name))
    return found


def create(name: str, **kwargs: Any) -> nn.Module:
    """Return a new model, by name or as `package.module:function` (or a class).

    Every built-in model takes `shape` (of one image, without the batch), `classes` and `seed` (of its first
    weights; None draws them from torch's generator), so `create(name, shape=dataset.shape,
    classes=dataset.num_classes)` fits any of them to a data set. It also takes `normalize`, the name of a
    data set in `STATISTICS`: the result is then the model inside `Normalized` with that set's mean and
    deviation.

    "timm:NAME" and "torchvision:NAME" are networks of these packages with their own normalization, as `adapt`
    makes them; they take `classes`, `seed`, `pretrained`, and what the package takes. A file that
    `torch.jit.save` wrote is the model that it holds.

    Args:
        name: one of `fastadv.models.names()`, such as "small_cnn" or "resnet18", "timm:NAME",
            "torchvision:NAME", a TorchScript file, or your own as `package.module:function`.
        kwargs: arguments of the model.

    Returns:
        A module; x [B, ...] in [0, 1] to logits [B, K].

    Raises:
        InputError: the name is unknown, the factory does not take the arguments, or returns anything but a
            torch.nn.Module.
        MissingExtraError: torchvision, which a ResNet needs, or timm is not installed.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> model = fa.models.create("small_cnn", shape=digits.shape, classes=digits.num_classes, width=8)
        >>> tuple(model(digits.x[:4]).shape)
        (4, 10)
    """
    model = build(name, **kwargs)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {name!r}: expected a torch.nn.Module, got {type(model).__name__}; attacks, fa.evaluate "
            "and --model take a function of images as it is"
        )
    return model


def build(name: str, **kwargs: Any) -> Any:
    """Return a model as `create` does, or what a function of the user's own returns: any function of images.

    One whose only needed argument is x is such a function itself, and a module is the model.
    """
    make: Any = factory(name)
    if isinstance(make, nn.Module) or needed(inspect.signature(make).parameters) == {"x"}:
        return make
    normalize = kwargs.pop("normalize", None) if name in BUILT_IN else None
    said = getattr(make, "keywords", {}).keys() & kwargs if name in BUILT_IN else ()
    for key in said:
        raise InputError(
            f"model {name!r}: expected no {key}, which its name says, got {kwargs[key]!r}; use wide_resnet"
        )
    try:
        bound = inspect.signature(make).bind(**kwargs)
    except TypeError as error:
        takes = inspect.signature(make).parameters
        near = "".join(meant(key, takes) for key in kwargs.keys() - takes.keys() - {"normalize"})
        inside = "; let it return a model of images in [0, 1], fastadv.models.Normalized(model, mean, std)"
        raise InputError(
            f"model {name!r} takes {inspect.signature(make)}, got {kwargs}: {error}"
            f"{inside if 'normalize' in kwargs else ''}{near}"
        ) from error
    if normalize is not None:
        check_choice("normalize", normalize, STATISTICS, ", or a model inside fastadv.models.Normalized")
        bound.apply_defaults()
        shape = tuple(bound.arguments["shape"])
        if len(shape) != 3 or shape[0] != 3:
            raise InputError(
                f"normalize: expected color images of shape (3, height, width) for {normalize}, got {shape}; "
                "leave it out"
            )
    model = make(**kwargs)
    return model if normalize is None else Normalized(model, *STATISTICS[normalize])
