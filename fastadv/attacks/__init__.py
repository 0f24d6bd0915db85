"""Attacks: one function each, one result type. `fastadv.attacks.core` is what one is written with.

`fastadv.attacks.rules` are gradient rules, for examples that transfer to other models.
The card of an attack stands above it: what it knows, what it serves, how it is tested, and its paper.
`ATTACKS` lists those that take any classifier, `ABS_ATTACKS` those that need a model that explains images,
`SUBSTITUTE_ATTACKS` those that need another model beside it, `PARAMETER_ATTACKS` those that need a threat of
few parameters, `DENSE_ATTACKS` those that need a class at each position.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastadv._checks import unknown
from fastadv.attacks import rules as rules
from fastadv.attacks.apgd import apgd
from fastadv.attacks.autoattack import AutoAttackResult, autoattack
from fastadv.attacks.bim import bim
from fastadv.attacks.boundary import boundary
from fastadv.attacks.core.card import ATTACKS, REGISTRY, Attack
from fastadv.attacks.core.criterion import Criterion
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.criteria.beyond import Beyond
from fastadv.attacks.criteria.one_class import ConfidentlyWrong, OutsideTopK, WrongBy
from fastadv.attacks.criteria.share import Share
from fastadv.attacks.criteria.signs import Signs
from fastadv.attacks.criteria.unless import Unless
from fastadv.attacks.cw import cw
from fastadv.attacks.ddn import ddn
from fastadv.attacks.deepfool import deepfool, superdeepfool
from fastadv.attacks.ead import ead
from fastadv.attacks.fab import fab
from fastadv.attacks.fgsm import fgsm
from fastadv.attacks.fmn import fmn
from fastadv.attacks.grid import grid
from fastadv.attacks.hopskipjump import hopskipjump
from fastadv.attacks.indicators import indicators
from fastadv.attacks.latent_descent import latent_descent
from fastadv.attacks.lbfgs import lbfgs
from fastadv.attacks.masking import Indicators
from fastadv.attacks.masking.masked_modules import masked_modules
from fastadv.attacks.mim import mim
from fastadv.attacks.minimum_norm import MinimumNormResult, minimum_norm
from fastadv.attacks.minimum_radius import minimum_radius
from fastadv.attacks.nes import nes, spsa
from fastadv.attacks.noises import gaussian_noise, salt_and_pepper, uniform_noise
from fastadv.attacks.pdpgd import pdgd, pdpgd
from fastadv.attacks.pgd import pgd
from fastadv.attacks.pointwise import pointwise
from fastadv.attacks.sea import sea
from fastadv.attacks.segpgd import segpgd
from fastadv.attacks.sigma_zero import sigma_zero
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.square import square
from fastadv.attacks.transfer import transfer
from fastadv.last_iterate import last_iterate

__all__ = [
    "ABS_ATTACKS", "ATTACKS", "DENSE_ATTACKS", "PARAMETER_ATTACKS", "SUBSTITUTE_ATTACKS", "Attack",
    "AttackResult", "AutoAttackResult", "Beyond", "ConfidentlyWrong", "Criterion", "Indicators",
    "MinimumNormResult", "OutsideTopK", "Share", "Signs", "Status", "Unless", "WrongBy", "apgd", "autoattack",
    "bim", "boundary", "cw", "ddn", "deepfool", "ead", "fab",
    "fgsm", "fmn", "gaussian_noise", "grid", "hopskipjump", "indicators", "last_iterate", "latent_descent",
    "lbfgs",
    "masked_modules", "mim", "minimum_norm", "minimum_radius", "nes", "pdgd", "pdpgd", "pgd", "pointwise",
    "salt_and_pepper", "sea", "segpgd", "sigma_zero", "sparse_rs", "spsa", "square", "superdeepfool",
    "transfer", "uniform_noise", "universal",
]  # fmt: skip

universal: Callable[..., Any]  # fastadv/train/universal.py, named here by fastadv/__init__.py

for _name in sorted(ATTACKS):
    ATTACKS[_name] = ATTACKS.pop(_name)
ABS_ATTACKS: dict[str, Attack] = {"latent_descent": REGISTRY["latent_descent"]}
PARAMETER_ATTACKS: dict[str, Attack] = {"grid": REGISTRY["grid"]}
DENSE_ATTACKS: dict[str, Attack] = {name: REGISTRY[name] for name in ("sea", "segpgd")}
SUBSTITUTE_ATTACKS: dict[str, Attack] = {"transfer": REGISTRY["transfer"]}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise unknown(__name__, name, __all__)
