"""PGD of other libraries on a problem, without a random start; ImportError where one is not installed.

All come with the extra `bench`.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from bench.pgd import Problem

Call = Callable[[], Tensor]


def torchattacks(given: Problem) -> Call:
    import torchattacks

    attack = torchattacks.PGD(
        given.model, eps=given.radius, alpha=given.step_size, steps=given.steps, random_start=False
    )
    return lambda: attack(given.x, given.y)


def foolbox(given: Problem) -> Call:
    import foolbox

    wrapped = foolbox.PyTorchModel(given.model, bounds=(0, 1), device=given.x.device)
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=given.step_size, steps=given.steps, random_start=False
    )
    return lambda: attack(wrapped, given.x, given.y, epsilons=given.radius)[1]


def adv_lib(given: Problem) -> Call:
    """It gives the last point that fools the model instead of the last point."""
    import_module("fastadv._torchvision")  # adv-lib imports torchvision, which fails beside a CPU-only torch
    from adv_lib.attacks import pgd_linf

    return lambda: pgd_linf(
        given.model, given.x, given.y, given.radius, steps=given.steps, random_init=False,
        absolute_step_size=given.step_size,
    )  # fmt: skip


PEERS: dict[str, Callable[[Problem], Call]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv-lib": adv_lib,
}


def version_of(peer: str) -> str:
    """The version of a peer's package, or what its module says where it is not installed as a package."""
    try:
        return version(peer)
    except PackageNotFoundError:
        return str(getattr(import_module(peer), "__version__", "unknown"))
