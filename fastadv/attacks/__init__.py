"""Attacks: one function each, one result type. `fastadv.attacks.core` is what one is written with.

The card of an attack says what it knows, what it serves, how it is tested, and its paper. `ATTACKS` lists
those that take any classifier, `ABS_ATTACKS` those that need a model that explains images,
`SUBSTITUTE_ATTACKS` those that need another model beside it.
"""

from functools import partial
from math import inf

from fastadv.attacks.apgd import apgd
from fastadv.attacks.autoattack import AutoAttackResult, autoattack
from fastadv.attacks.bim import bim
from fastadv.attacks.boundary import boundary
from fastadv.attacks.contrast import contrast
from fastadv.attacks.core.card import Attack
from fastadv.attacks.core.criterion import ConfidentlyWrong, Criterion, OutsideTopK, WrongBy
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.cw import cw
from fastadv.attacks.ddn import ddn
from fastadv.attacks.deepfool import deepfool
from fastadv.attacks.distal import distal
from fastadv.attacks.ead import ead
from fastadv.attacks.estimated_gradient import estimated_gradient
from fastadv.attacks.fab import fab
from fastadv.attacks.fgsm import fgsm
from fastadv.attacks.fmn import fmn
from fastadv.attacks.gaussian_noise import gaussian_noise
from fastadv.attacks.hopskipjump import hopskipjump
from fastadv.attacks.last_iterate import last_iterate
from fastadv.attacks.latent_descent import latent_descent
from fastadv.attacks.lbfgs import lbfgs
from fastadv.attacks.masking import Indicators, indicators
from fastadv.attacks.methods.masked_modules import masked_modules
from fastadv.attacks.methods.transfer_rules import (
    DiverseInput,
    ScaleInvariant,
    TranslationInvariant,
    VarianceTuned,
)
from fastadv.attacks.mim import mim
from fastadv.attacks.minimum_norm import MinimumNormResult, minimum_norm
from fastadv.attacks.minimum_radius import minimum_radius
from fastadv.attacks.nes import nes
from fastadv.attacks.pdgd import pdgd
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.pgd import pgd
from fastadv.attacks.pointwise import pointwise
from fastadv.attacks.salt_and_pepper import salt_and_pepper
from fastadv.attacks.sigma_zero import sigma_zero
from fastadv.attacks.sparse_rs import sparse_rs
from fastadv.attacks.spsa import spsa
from fastadv.attacks.square import square
from fastadv.attacks.superdeepfool import superdeepfool
from fastadv.attacks.transfer import transfer
from fastadv.attacks.uniform_noise import uniform_noise

__all__ = [
    "ABS_ATTACKS", "ATTACKS", "SUBSTITUTE_ATTACKS", "Attack", "AttackResult", "AutoAttackResult",
    "ConfidentlyWrong", "Criterion", "DiverseInput", "Indicators", "MinimumNormResult", "OutsideTopK",
    "ScaleInvariant", "Status", "TranslationInvariant", "VarianceTuned", "WrongBy", "apgd", "autoattack",
    "bim", "boundary", "contrast", "cw", "ddn", "deepfool", "distal", "ead", "estimated_gradient", "fab",
    "fgsm", "fmn", "gaussian_noise", "hopskipjump", "indicators", "last_iterate", "latent_descent", "lbfgs",
    "masked_modules", "mim", "minimum_norm", "minimum_radius", "nes", "pdgd", "pdpgd", "pgd", "pointwise",
    "salt_and_pepper", "sigma_zero", "sparse_rs", "spsa", "square", "superdeepfool", "transfer",
    "uniform_noise",
]  # fmt: skip

CARDS = (
    Attack(apgd, random=True, quick={"steps": 3}, oracle={"steps": 100}, paper="Croce and Hein 2020, 2021"),
    Attack(autoattack, random=True, quick={"version": "quick"}, paper="Croce and Hein 2020, 2021"),
    Attack(bim, quick={"steps": 10}, tolerance=1.25, paper="Kurakin et al. 2017"),
    Attack(boundary, knowledge="decision", kind="minimum", random=True, quick={"queries": 100, "restarts": 3},
           oracle={"queries": 3000, "restarts": 1}, paper="Brendel et al. 2018", tolerance=1.25),
    # it looks in one direction alone
    Attack(contrast, knowledge="decision", kind="minimum", paper="Rauber et al. 2017", tolerance=inf),
    Attack(cw, kind="minimum", quick={"steps": 20, "searches": 3}, oracle={"steps": 100, "searches": 5},
           paper="Carlini and Wagner 2017"),
    Attack(ddn, kind="minimum", quick={"steps": 40}, oracle={"steps": 100}, paper="Rony et al. 2019"),
    Attack(deepfool, kind="minimum", quick={"steps": 10}, oracle={"steps": 50},
           paper="Moosavi-Dezfooli et al. 2016"),
    Attack(ead, kind="minimum", quick={"steps": 20, "searches": 3}, oracle={"steps": 100},
           paper="Chen et al. 2018"),
    Attack(fab, kind="minimum", random=True, quick={"steps": 3, "restarts": 4}, oracle={"steps": 20},
           paper="Croce and Hein 2020"),
    Attack(fgsm, tolerance=1.25, paper="Goodfellow et al. 2014"),
    Attack(fmn, kind="minimum", quick={"steps": 20}, oracle={"steps": 150}, paper="Pintor et al. 2021"),
    Attack(gaussian_noise, knowledge="decision", kind="minimum", random=True,
           quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10},
           paper="Schott et al. 2018", tolerance=12),
    Attack(hopskipjump, knowledge="decision", kind="minimum", random=True,
           quick={"queries": 100, "directions": 10, "restarts": 3},
           oracle={"queries": 3000, "directions": 100, "restarts": 1}, paper="Chen et al. 2020",
           tolerance=1.25),
    Attack(lbfgs, kind="minimum", quick={"steps": 10, "searches": 4}, oracle={"steps": 40},
           paper="Szegedy et al. 2014"),
    Attack(mim, quick={"steps": 10}, tolerance=1.25, paper="Dong et al. 2018"),
    Attack(minimum_norm, kind="minimum", random=True, quick={"steps": 40}, oracle={"steps": 500},
           paper="of each attack its own"),
    Attack(minimum_radius, kind="minimum",
           quick={"attack": partial(bim, steps=4, stop_early=False), "searches": 4},
           oracle={"attack": partial(bim, steps=40, loss="margin"), "searches": 10},
           paper="Schott et al. 2018; Cina et al. 2025"),
    Attack(nes, knowledge="score", random=True, quick={"queries": 210, "directions": 10},
           oracle={"queries": 20200, "directions": 100}, paper="Ilyas et al. 2018", tolerance=1.5),
    Attack(pdgd, kind="minimum", quick={"steps": 30}, oracle={"steps": 150}, paper="Matyasko and Chau 2021"),
    Attack(pdpgd, kind="minimum", quick={"steps": 40}, oracle={"steps": 100}, paper="Matyasko and Chau 2021"),
    Attack(pgd, random=True, quick={"steps": 10}, paper="Madry et al. 2018"),
    Attack(pointwise, knowledge="decision", kind="minimum", random=True, quick={"queries": 100},
           oracle={"queries": 300}, paper="Schott et al. 2018", tolerance=10),
    Attack(salt_and_pepper, knowledge="decision", kind="minimum", random=True,
           quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10},
           paper="Schott et al. 2018", tolerance=18),
    Attack(sigma_zero, kind="minimum", quick={"steps": 40}, oracle={"steps": 150}, paper="Cinà et al. 2025"),
    Attack(sparse_rs, knowledge="score", random=True, quick={"queries": 30}, oracle={"queries": 3000},
           paper="Croce et al. 2022"),
    Attack(spsa, knowledge="score", random=True, quick={"queries": 210, "directions": 10},
           oracle={"queries": 20200, "directions": 100}, paper="Uesato et al. 2018", tolerance=1.5),
    Attack(square, knowledge="score", random=True, quick={"queries": 30}, oracle={"queries": 2000},
           tolerance=2.5, paper="Andriushchenko et al. 2020; Croce and Hein 2021"),
    Attack(superdeepfool, kind="minimum", quick={"steps": 15}, oracle={"steps": 50},
           paper="Abdolahpourrostami et al. 2024"),
    Attack(uniform_noise, knowledge="decision", kind="minimum", random=True,
           quick={"levels": 20, "repetitions": 5}, oracle={"levels": 100, "repetitions": 10},
           paper="Rauber et al. 2017", tolerance=16),
)  # fmt: skip
ATTACKS: dict[str, Attack] = {card.name: card for card in CARDS}
ABS_ATTACKS: dict[str, Attack] = {
    "latent_descent": Attack(
        latent_descent, kind="minimum", needs="a model with infer(x), such as ABS", paper="Schott et al. 2018"
    ),
}
SUBSTITUTE_ATTACKS: dict[str, Attack] = {
    "transfer": Attack(
        transfer, kind="minimum", knowledge="decision", needs="a substitute", paper="Schott et al. 2018"
    ),
}
