"""Training: recipes (what is minimised) and `fit` (how), with checkpoints that resume bit for bit."""

from fastadv.train._run import EpochReport
from fastadv.train.fit import fit, reports
from fastadv.train.recipes import FGSMTraining, PGDTraining, Recipe, Standard

__all__ = ["EpochReport", "FGSMTraining", "PGDTraining", "Recipe", "Standard", "fit", "reports"]
