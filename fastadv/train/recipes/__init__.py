"""Recipes: what training minimizes, as a loss on (model, x, y), or as a step of its own.

Recipes attack an eval-mode twin that shares the model's weights: the attack computes no weight gradient,
changes no BatchNorm statistics, and leaves the model's modes and gradients alone. The loss is that of the
model in its own mode. (FreeTraining, which shares its backward pass with the attack, is the exception.)
"""

from fastadv.train.recipes.awp import AWP
from fastadv.train.recipes.base import Crafted, OwnStep, Recipe, Step
from fastadv.train.recipes.fast import FastTraining
from fastadv.train.recipes.fgsm import FGSMTraining
from fastadv.train.recipes.free import FreeTraining
from fastadv.train.recipes.l1 import WeightDecayL1
from fastadv.train.recipes.mart import MART
from fastadv.train.recipes.noise import InputNoise
from fastadv.train.recipes.pgd import PGDTraining
from fastadv.train.recipes.standard import Standard
from fastadv.train.recipes.trades import TRADES

__all__ = [
    "AWP",
    "MART",
    "TRADES",
    "Crafted",
    "FGSMTraining",
    "FastTraining",
    "FreeTraining",
    "InputNoise",
    "OwnStep",
    "PGDTraining",
    "Recipe",
    "Standard",
    "Step",
    "WeightDecayL1",
]
