"""Recipes: what training minimizes, as a loss on (model, x, y), or as a step of its own.

Recipes attack an eval-mode copy that shares the model's weights: the attack computes no weight gradient,
changes no BatchNorm statistics, and leaves the model's modes and gradients alone. The loss is that of the
model in its own mode. FreeTraining, whose passes serve the attack too, is the exception.
"""

from collections.abc import Callable

from fastadv.train.recipes.adversarial import FastTraining, FGSMTraining, PGDTraining, Standard
from fastadv.train.recipes.aligned import Aligned
from fastadv.train.recipes.base import Crafted, OwnStep, Recipe, Step, craft
from fastadv.train.recipes.own_step import AWP, FreeTraining
from fastadv.train.recipes.smoothing import Consistency, GaussianTraining, SmoothAdv
from fastadv.train.recipes.trades import MART, SCORE, TRADES

__all__ = [
    "AWP",
    "MART",
    "SCORE",
    "TRADES",
    "Aligned",
    "Consistency",
    "Crafted",
    "FGSMTraining",
    "FastTraining",
    "FreeTraining",
    "GaussianTraining",
    "OwnStep",
    "PGDTraining",
    "Recipe",
    "SmoothAdv",
    "Standard",
    "Step",
    "craft",
]

RECIPES: dict[str, Callable[..., Recipe | OwnStep]] = {
    "standard": Standard,
    "fgsm": FGSMTraining,
    "pgd": PGDTraining,
    "trades": TRADES,
    "mart": MART,
    "score": SCORE,
    "fast": FastTraining,
    "free": FreeTraining,
    "gaussian": GaussianTraining,
    "smoothadv": SmoothAdv,
    "consistency": Consistency,
    "aligned": Aligned,
}
"""The recipes that commands can name; AWP goes around one."""
