"""PGD of other libraries on a problem, without a random start; ImportError where one is not installed.

All come with the extra `bench`.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

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


def art(given: Problem) -> Call:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    device = given.x.device
    classifier = PyTorchClassifier(
        given.model, nn.CrossEntropyLoss(), tuple(given.x.shape[1:]), given.model(given.x[:1]).shape[1],
        clip_values=(0.0, 1.0), device_type="gpu" if device.type == "cuda" else "cpu",
    )  # fmt: skip
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=given.radius, eps_step=given.step_size, max_iter=given.steps,
        batch_size=len(given.x), verbose=False,
    )  # fmt: skip
    x, y = given.x.cpu().numpy(), given.y.cpu().numpy()
    return lambda: torch.from_numpy(attack.generate(x, y)).to(device)


PEERS: dict[str, Callable[[Problem], Call]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv-lib": adv_lib,
    "ART": art,
}


def version_of(peer: str) -> str:
    """The version of a peer's package, or what its module says where it is not installed as a package."""
    try:
        return version({"ART": "adversarial-robustness-toolbox"}.get(peer, peer))
    except PackageNotFoundError:
        return str(getattr(import_module({"ART": "art"}.get(peer, peer)), "__version__", "unknown"))
