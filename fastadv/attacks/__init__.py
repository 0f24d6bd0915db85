"""Attacks: one function each, one result type.

`ATTACKS` lists those that take any classifier, `ABS_ATTACKS` those that need a model that explains images.
"""

from fastadv.attacks._registry import Attack
from fastadv.attacks._result import AttackResult, Status
from fastadv.attacks.bim import bim
from fastadv.attacks.distal import DistalResult, distal
from fastadv.attacks.fgsm import fgsm
from fastadv.attacks.last_iterate import last_iterate
from fastadv.attacks.latent_descent import latent_descent
from fastadv.attacks.mim import mim
from fastadv.attacks.pgd import pgd

ATTACKS: dict[str, Attack] = {
    "fgsm": Attack(fgsm),
    "bim": Attack(bim, quick={"steps": 10}),
    "pgd": Attack(pgd, quick={"steps": 10}),
    "mim": Attack(mim, quick={"steps": 10}),
}
ABS_ATTACKS: dict[str, Attack] = {
    "latent_descent": Attack(latent_descent, minimal=True, needs="a model with infer(x), such as ABS"),
}

__all__ = [
    "ABS_ATTACKS",
    "ATTACKS",
    "Attack",
    "AttackResult",
    "DistalResult",
    "Status",
    "bim",
    "distal",
    "fgsm",
    "last_iterate",
    "latent_descent",
    "mim",
    "pgd",
]
