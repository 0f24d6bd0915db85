"""Sets whose labels follow only the features that an adversary changes: D_rand and D_det.

Source: Ilyas et al. 2019, "Adversarial examples are not bugs, they are features", section 3.2 and appendix C.
"""

from collections.abc import Callable
from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from fastadv import rng
from fastadv._checks import check_seed
from fastadv.attacks.last_iterate import last_iterate
from fastadv.data.construct._build import BatchSearch, BuildOptions, Construction, build
from fastadv.data.construct._checks import check_budget, prepare
from fastadv.data.construct.constructed import ConstructedSet
from fastadv.engine import Frozen
from fastadv.runs import processes
from fastadv.threat import Threat


def random_target(
    model: nn.Module | Frozen,
    base: Dataset[Any],
    *,
    threat: Threat,
    steps: int,
    step_size: float | None = None,
    seed: int = 0,
    **options: Unpack[BuildOptions],
) -> ConstructedSet:
    """Build the set D_rand: adversarial examples for random targets, labeled with the targets.

    For each (x, y) of the base a target t is drawn uniformly over ALL classes, the true one among them, and
    PGD with normalized gradients, from x itself, solves

        x_adv = argmin over || x' - x ||_2 <= radius, x' in the box, of cross_entropy(model(x'), t);

    (x_adv, t) is stored. Robust features of such a set say nothing about its labels; non-robust ones do. The
    paper's budget for CIFAR-10 is `CIFAR10_PAPER["d_rand"]`.

    model: a standard classifier of images in the box, giving logits [B, K].
    base: map-style data set of (image in the box, label); an ImageSet is read fastest.
    threat: the budget; of any norm, with one radius or one for each image of the base.
    steps, step_size: of the search; the step is a length in the threat's norm, in input units.
        None: 20 * radius / steps, as in the paper.
    seed: decides t together with the sample's number, whatever the batch or process.
    options: see BuildOptions (batch_size, dtype, out_dir, shard_size, identity, rank, world_size, progress).

    Raises InputError, before any work, for an empty base, pixels outside the box, a model with one class, an
    option out of range, or a folder that cannot be written or holds another set; while working, for 8-bit
    storage that cannot hold the budget; CorruptFileError for a damaged shard in `out_dir`.
    """

    def choose(y: Tensor, ids: Tensor, classes: int) -> Tensor:
        return rng.integers(classes, rng.derive(seed, "construct targets"), ids)

    return _attack("random_target", model, base, threat, steps, step_size, seed, choose, options)


def fixed_shift(
    model: nn.Module | Frozen,
    base: Dataset[Any],
    *,
    threat: Threat,
    steps: int,
    step_size: float | None = None,
    seed: int = 0,
    **options: Unpack[BuildOptions],
) -> ConstructedSet:
    """Build the set D_det: the construction of `random_target` with the target t = (y + 1) mod K for class
    y.

    Robust features now point away from the labels. Arguments and errors are those of `random_target`; nothing
    is random here, and the seed is only recorded. A class without images is an error too: the set would lack
    a label. The paper's budget for CIFAR-10 is `CIFAR10_PAPER["d_det"]`.
    """

    def choose(y: Tensor, ids: Tensor, classes: int) -> Tensor:
        return (y + 1) % classes

    return _attack("fixed_shift", model, base, threat, steps, step_size, seed, choose, options)


def _attack(
    name: str,
    model: nn.Module | Frozen,
    base: Dataset[Any],
    threat: Threat,
    steps: int,
    step_size: float | None,
    seed: int,
    choose: Callable[[Tensor, Tensor, int], Tensor],
    options: BuildOptions,
) -> ConstructedSet:
    with processes.agreement():
        check_budget(threat, steps, step_size)
        check_seed(seed)
        frozen, samples, classes = prepare(model, base, threat, every_class=name == "fixed_shift")

    def begin(x: Tensor, y: Tensor, ids: Tensor, budget: Threat) -> BatchSearch:
        targets = choose(y, ids, classes).to(x.device)
        # 20 makes it the paper's 0.1 for L2(0.5) and 100 steps
        size = budget.default_step_size(steps, 20.0) if step_size is None else step_size

        def run() -> Tensor:
            return last_iterate(
                frozen, x, None, budget, steps=steps, step_size=size, loss="ce", targets=targets
            )

        def objective(images: Tensor) -> Tensor:
            return cross_entropy(frozen.verdict(images), targets, reduction="none")

        return BatchSearch(targets, x, run, objective)

    settings = {
        "objective": "cross-entropy to the label",
        "steps": steps,
        "step_size": "20 * radius / steps" if step_size is None else float(step_size),
        "seed": seed,
    }
    return build(Construction(name, frozen, classes, threat, settings, begin), samples, **options)
