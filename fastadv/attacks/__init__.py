"""Attacks: one function each, one result type. `fastadv.attacks.core` is what one is written with."""

from fastadv.attacks.apgd import apgd
from fastadv.attacks.autoattack import AutoAttackResult, autoattack
from fastadv.attacks.bim import bim
from fastadv.attacks.boundary import boundary
from fastadv.attacks.cards import ABS_ATTACKS, ATTACKS, SUBSTITUTE_ATTACKS
from fastadv.attacks.contrast import contrast
from fastadv.attacks.core.card import Attack
from fastadv.attacks.core.common import Common
from fastadv.attacks.core.criterion import ConfidentlyWrong, Criterion, OutsideTopK, WrongBy
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.cw import cw
from fastadv.attacks.ddn import ddn
from fastadv.attacks.deepfool import deepfool
from fastadv.attacks.distal import DistalResult, distal
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
from fastadv.attacks.methods.flags import Cost
from fastadv.attacks.methods.symptoms import Symptoms, symptoms
from fastadv.attacks.mim import mim
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
from fastadv.attacks.transfer import transfer
from fastadv.attacks.uniform_noise import uniform_noise

__all__ = [
    "ABS_ATTACKS", "ATTACKS", "SUBSTITUTE_ATTACKS", "Attack", "AttackResult", "AutoAttackResult", "Common",
    "ConfidentlyWrong", "Cost", "Criterion", "DistalResult", "OutsideTopK", "Status", "Symptoms", "WrongBy",
    "apgd", "autoattack", "bim", "boundary", "contrast", "cw", "ddn", "deepfool", "distal", "ead",
    "estimated_gradient", "fab", "fgsm", "fmn", "gaussian_noise", "hopskipjump", "last_iterate",
    "latent_descent", "lbfgs", "mim", "minimum_radius", "nes", "pdgd", "pdpgd", "pgd", "pointwise",
    "salt_and_pepper", "sigma_zero", "sparse_rs", "spsa", "square", "symptoms", "transfer", "uniform_noise",
]  # fmt: skip
