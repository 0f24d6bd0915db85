"""Training: recipes (what is minimised) and `fit` (how), with checkpoints that resume bit for bit."""

from fastadv.train import augment
from fastadv.train.fit import fit, run
from fastadv.train.optim import Piecewise
from fastadv.train.ramp import Ramp
from fastadv.train.recipes import (
    AWP,
    MART,
    TRADES,
    Crafted,
    FastTraining,
    FGSMTraining,
    FreeTraining,
    HiddenFGSM,
    InputNoise,
    OwnStep,
    PGDTraining,
    PriorGuidedTraining,
    Recipe,
    RobustLogistic,
    RubbishTraining,
    Standard,
    Step,
    WeightDecayL1,
)
from fastadv.train.report import EpochReport, reports

__all__ = [
    "AWP",
    "MART",
    "TRADES",
    "Crafted",
    "EpochReport",
    "FGSMTraining",
    "FastTraining",
    "FreeTraining",
    "HiddenFGSM",
    "InputNoise",
    "OwnStep",
    "PGDTraining",
    "Piecewise",
    "PriorGuidedTraining",
    "Ramp",
    "Recipe",
    "RobustLogistic",
    "RubbishTraining",
    "Standard",
    "Step",
    "WeightDecayL1",
    "augment",
    "fit",
    "reports",
    "run",
]
