"""What the study depends on, and its sizes."""

from dataclasses import dataclass, fields

import fastadv as fa
from fastadv._checks import check_count, check_number, check_seed
from fastadv.errors import InputError
from fastadv.ops._rows import NO_BOX


@dataclass(frozen=True)
class Settings:
    """All that the study depends on. The defaults are for two cores."""

    radius: float = 0.25  # of FGSM, L-infinity, images in [0, 1]
    units: int = 240  # in a layer of the maxout networks
    large_units: int = 1600  # in a layer of the large maxout networks
    members: int = 12  # of the ensemble
    epochs: int = 40  # of each network
    member_epochs: int = 15  # of the other members of the ensemble
    large_epochs: int = 25  # the most epochs of the large networks, whose training stops early
    shallow_epochs: int = 20  # of networks with one layer
    patience: int = 10  # epochs without a lower adversarial error after which training stops early
    validation: int = 10_000  # held-out images that measure this error
    seeds: int = 1  # large networks to train adversarially, each with its own seed
    tested: int | None = None  # use this many test images only; None uses all
    rubbish: int = 10_000  # images of Gaussian noise
    precision: str = "bf16"  # of the training of maxout networks
    seed: int = 0  # of everything random
    l1: tuple[float, ...] = (0.0025, 0.00025)  # coefficients of L1 decay

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
