"""Sets whose labels follow only the features that an adversary changes: D_rand and D_det."""

from collections.abc import Callable
from typing import Any, Unpack

from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._checks import knowing
from fastadv.data.construct._base import Model, Search, prepare
from fastadv.data.construct._build import BuildOptions, Construction, Searched, build
from fastadv.data.construct.constructed import ConstructedSet
from fastadv.last_iterate import last_iterate
from fastadv.runs import processes
from fastadv.threat import Threat

Choose = Callable[[Tensor, Tensor, int], Tensor]  # the targets, from labels, ids and the number of classes


@knowing
def random_target(
    model: Model, base: Dataset[Any], *, threat: Threat, steps: int, step_size: float | None = None,
    seed: int = 0, **options: Unpack[BuildOptions],
) -> ConstructedSet:  # fmt: skip
    """Build the set D_rand: adversarial examples for random targets, labeled with the targets.

    For each (x, y) of the base a target t is drawn uniformly over ALL classes, including the true one, and
    PGD with normalized gradients, from x itself, solves

        x_adv = argmin over || x' - x ||_2 <= radius, x' in the box, of cross_entropy(model(x'), t);

    (x_adv, t) is stored. Robust features of such a set say nothing about its labels; non-robust ones do. The
    paper's budget is `CIFAR10_PAPER["d_rand"]`; for Restricted ImageNet its radius is 3.

    The last iterate is stored, and of an 8-bit base in 8 bits, rounded inside the budget. The authors'
    library keeps the best iterate, in float32. Both differ little: with normalized gradients and without
    noise the loss falls to the end, and the card reports the fooling rate of what is stored.

    Args:
        model: a standard classifier of images in the box; x [B, ...] to logits [B, K].
        base: map-style data set of (image in the box, label).
        threat: the budget, of any norm, with one radius, and the box.
        steps: of the search, >= 1.
        step_size: a length in the threat's norm, in input units; None is 20 * radius / steps, as in the
            paper.
        seed: decides t together with the sample's number, whatever the batch or process.
        options: see `BuildOptions`.

    Returns:
        A `ConstructedSet`.

    Raises:
        InputError: the base is empty, pixels are outside the box, the model has one class, an option is out
            of range, a folder cannot be written or holds another set, or 8 bits cannot hold the budget.
        CorruptFileError: a shard in `out_dir` is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> made = fa.data.construct.random_target(model, digits, threat=fa.L2(1), steps=5)
        >>> len(made), bool((made.figures["distance"] <= 1.0001).all())
        (50, True)

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.2.
    """

    def choose(y: Tensor, ids: Tensor, classes: int) -> Tensor:
        return rng.integers(classes, rng.derive(seed, "construct targets"), ids)

    search = Search(threat, steps, step_size, seed)
    return _attack("random_target", model, base, search, choose, options)


@knowing
def fixed_shift(
    model: Model, base: Dataset[Any], *, threat: Threat, steps: int, step_size: float | None = None,
    seed: int = 0, **options: Unpack[BuildOptions],
) -> ConstructedSet:  # fmt: skip
    """Build the set D_det: adversarial examples for the target t = (y + 1) mod K, labeled with it.

    For each (x, y) of the base, PGD with normalized gradients, from x itself, moves x towards t as in
    `random_target`; (x_adv, t) is stored. Robust features of the set now point away from its labels. Nothing
    is random here, and the seed is only recorded. The paper's budget for CIFAR-10 is
    `CIFAR10_PAPER["d_det"]`.

    Args:
        base: map-style data set of (image in the box, label), with images of every class.
        seed: is recorded.
        others: as in `random_target`.

    Returns:
        A `ConstructedSet`.

    Raises:
        InputError: as by `random_target`, and where the base lacks a class.
        CorruptFileError: a shard in `out_dir` is damaged.

    Example:
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test", limit=50)
        >>> model = fa.models.create("softmax", shape=digits.shape, classes=10)
        >>> made = fa.data.construct.fixed_shift(model, digits, threat=fa.L2(1), steps=5)
        >>> bool((made.y == (digits.y + 1) % 10).all())
        True

    Source:
        Ilyas et al. 2019 (arXiv 1905.02175), section 3.2.
    """
    search = Search(threat, steps, step_size, seed)
    return _attack("fixed_shift", model, base, search, lambda y, _, classes: (y + 1) % classes, options)


def _attack(
    name: str, model: Model, base: Dataset[Any], search: Search, choose: Choose, options: BuildOptions
) -> ConstructedSet:
    with processes.agreement():
        search.check()
        frozen, samples, classes = prepare(model, base, search, options, every_class=name == "fixed_shift")

    def attack(x: Tensor, y: Tensor, ids: Tensor) -> Searched:
        targets = choose(y, ids, classes).to(x.device)
        how: dict[str, Any] = {"steps": search.steps, "step_size": search.length, "loss": "ce"}
        images = last_iterate(frozen, x, None, search.threat, targets=targets, **how)
        return targets, x, images, lambda x: cross_entropy(frozen.verdict(x), targets, reduction="none")

    settings = {"objective": "cross-entropy to the label", **search.describe(), "seed": search.seed}
    return build(Construction(name, frozen, classes, search.threat, settings, attack), samples, **options)
