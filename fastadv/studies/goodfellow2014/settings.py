"""What the study depends on, and its sizes."""

from dataclasses import dataclass, fields

import fastadv as fa
from fastadv._checks import check_count, check_number, check_seed
from fastadv.errors import InputError
from fastadv.ops._rows import NO_BOX


@dataclass(frozen=True)
class Settings:
    """All that the study depends on. The defaults are for two cores.

    Args:
        radius: of FGSM, L-infinity, images in [0, 1].
        units: in a layer of the maxout networks.
        large_units: in a layer of the large maxout networks.
        members: of the ensemble.
        epochs: of each network.
        member_epochs: of the other members of the ensemble.
        large_epochs: the most epochs of the large networks, whose training stops early.
        shallow_epochs: of networks with one layer.
        patience: epochs without a lower adversarial error after which training stops early.
        validation: held-out images that measure this error.
        seeds: large networks to train adversarially, each with its own seed.
        tested: use this many test images only; None uses all.
        rubbish: images of Gaussian noise.
        precision: of the training of maxout networks.
        seed: of everything random.
        l1: coefficients of L1 decay.
    """

    radius: float = 0.25
    units: int = 240
    large_units: int = 1600
    members: int = 12
    epochs: int = 40
    member_epochs: int = 15
    large_epochs: int = 25
    shallow_epochs: int = 20
    patience: int = 10
    validation: int = 10_000
    seeds: int = 1
    tested: int | None = None
    rubbish: int = 10_000
    precision: str = "bf16"
    seed: int = 0
    l1: tuple[float, ...] = (0.0025, 0.00025)

    def __post_init__(self) -> None:
        if not check_number("radius", self.radius) > 0:
            raise InputError(f"radius: expected a number > 0, got {self.radius!r}")
        for each in fields(self):
            if each.type is int and each.name != "seed":
                check_count(each.name, getattr(self, each.name), 1)
        check_seed(self.seed)

    @property
    def threat(self) -> fa.Linf:
        """The paper's: it clips nothing."""
        return fa.Linf(self.radius, box=NO_BOX)

    @property
    def boxed(self) -> fa.Linf:
        """The same within the box of images."""
        return fa.Linf(self.radius)


SCALES = {
    "tiny": Settings(
        units=8, large_units=12, members=2, epochs=1, member_epochs=1, large_epochs=2, shallow_epochs=1,
        patience=1, validation=60, tested=100, rubbish=50, precision="fp32",
    ),
    "cpu": Settings(),
    "paper": Settings(
        epochs=100, member_epochs=100, large_epochs=200, patience=100, shallow_epochs=50, seeds=5
    ),
}  # fmt: skip
"""tiny: every part in seconds, on the embedded digits, the figures mean nothing; cpu: two cores; paper: for a
GPU, five large networks."""
