"""Sets that keep of each image only what a network's representation sees of it: D_R and D_NR."""

from math import inf
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastadv._checks import check_choice, knowing
from fastadv.data.construct._base import (
    STARTS,
    Model,
    Module,
    Search,
    check_features,
    describe_model,
    prepare,
)
from fastadv.data.construct._build import BuildOptions, Construction, Searched, build
from fastadv.data.construct.constructed import ConstructedSet
from fastadv.errors import InputError
from fastadv.last_iterate import last_iterate
from fastadv.runs import processes
from fastadv.threat import L2, Threat
from fastadv.threat.checks import check_finite_box

UNBOUNDED = L2(inf)


@knowing
def robust(
    model: Model, base: Dataset[Any], *, steps: int, step_size: float, threat: Threat = UNBOUNDED,
    module: Module = None, start: str = "images", seed: int = 0, **options: Unpack[BuildOptions],
) -> ConstructedSet:  # fmt: skip
    """Build the robust set D_R: images that an adversarially trained `model` represents like those of `base`.

    For each (x, y) of the base, from a start x' drawn independently of y, L2 PGD with normalized gradients
    solves

        x_R = argmin over z in the box of || g(z) - g(x) ||_2

    with g the representation of the model, and (x_R, y) is stored. A network trained on it in the ordinary
    way should be robust. The paper's budget for CIFAR-10 is `CIFAR10_PAPER["d_r"]`.

    Args:
        model: an adversarially trained classifier of images in the box; x [B, ...] to logits [B, K].
        base: map-style data set of (image in the box, label), with images of every class.
        steps: of the search, >= 1.
        step_size: a length in the threat's norm, in input units.
        threat: norm of the steps, how far z may go from x', and the box. By default z is free in the box
            (0, 1) and steps are in L2.
        module: the representation: None is the input of the last linear layer, else the output of the module
            of that name, or a function of images in the model's dtype that gives [B, F].
        start: "images" draws x' from the other images of the base, "noise" from a Gaussian around the
            middle of the box, whose deviation is 0.05 of its width.
        seed: decides x' together with the sample's number, whatever the batch or process.
        options: see `BuildOptions`.

    Returns:
        A `ConstructedSet`.

    Raises:
        InputError: the base is empty or lacks a class, pixels are outside the box, a representation is not
            [B, F], an option is out of range, or a folder cannot be written or holds another set.
        CorruptFileError: a shard in `out_dir` is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> model = fa.models.create("small_cnn", shape=digits.shape, classes=10, width=4)
        >>> made = fa.data.construct.robust(model, digits, steps=3, step_size=0.5)
        >>> tuple(made.x.shape), bool((made.y == digits.y).all())
        ((50, 1, 8, 8), True)

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.1 and appendix C.
    """
    search = Search(threat, steps, step_size, seed)
    return _invert("robust", model, base, search, module, start, options)


@knowing
def non_robust(
    model: Model, base: Dataset[Any], *, steps: int, step_size: float, threat: Threat = UNBOUNDED,
    module: Module = None, start: str = "images", seed: int = 0, **options: Unpack[BuildOptions],
) -> ConstructedSet:  # fmt: skip
    """Build the non-robust set D_NR: images that a standard network represents like those of `base`.

    It is the construction of `robust` with another network. A network trained on the set in the ordinary way
    should be accurate, and as fragile as the network it came from.

    Args:
        model: a classifier of images in the box trained without an adversary; x [B, ...] to logits [B, K].
        others: as in `robust`.

    Returns:
        A `ConstructedSet`.

    Raises:
        InputError: as by `robust`.
        CorruptFileError: a shard in `out_dir` is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> model = fa.models.create("small_cnn", shape=digits.shape, classes=10, width=4)
        >>> made = fa.data.construct.non_robust(model, digits, steps=3, step_size=0.5)
        >>> tuple(made.x.shape), bool((made.y == digits.y).all())
        ((50, 1, 8, 8), True)

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.1 and appendix C.
    """
    search = Search(threat, steps, step_size, seed)
    return _invert("non_robust", model, base, search, module, start, options)


def _invert(
    name: str, model: Model, base: Dataset[Any], search: Search, module: Module, start: str,
    options: BuildOptions,
) -> ConstructedSet:  # fmt: skip
    with processes.agreement():
        search.check()
        if check_choice("start", start, STARTS) == "noise":
            check_finite_box("start='noise'", search.threat)
        source, samples, classes = prepare(model, base, search, options, every_class=True)
        if start == "images" and samples.count < 2:
            raise InputError("base: expected at least 2 images to draw starts from, got 1; use start='noise'")
        features = check_features(source, module, samples)
        representation = describe_model(features, samples)

    def invert(x: Tensor, y: Tensor, ids: Tensor) -> Searched:
        goal = features.verdict(x)
        center = samples.start(start, x, ids, search.seed)

        def distance(reached: Tensor) -> Tensor:
            return torch.linalg.vector_norm(reached - goal, dim=1)  # type: ignore[no-any-return]

        images = last_iterate(
            features, center, None, search.threat, steps=search.steps, step_size=search.length,
            loss=lambda reached, y, targets: -distance(reached),
        )  # fmt: skip
        return y, center, images, lambda images: distance(features.verdict(images))

    settings = {
        "objective": "representation distance",
        **search.describe(),
        "module": _module_name(module),
        "representation": representation,
        "start": start,
        "seed": search.seed,
    }
    return build(Construction(name, source, classes, search.threat, settings, invert), samples, **options)


def _module_name(module: Module) -> str:
    if module is None:
        return "input of the last linear layer"
    return module if isinstance(module, str) else getattr(module, "__qualname__", type(module).__name__)
