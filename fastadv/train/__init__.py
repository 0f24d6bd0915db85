"""Training: recipes (what is minimized) and `fit` (how), with checkpoints that resume bit for bit."""

from fastadv.train import augment
from fastadv.train.ending import Ending
from fastadv.train.execution import Execution
from fastadv.train.fit import epochs, fit, run
from fastadv.train.measuring import Measuring
from fastadv.train.optim import Optimization, Piecewise
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
    "Ending",
    "EpochReport",
    "Execution",
    "FGSMTraining",
    "FastTraining",
    "FreeTraining",
    "HiddenFGSM",
    "InputNoise",
    "Measuring",
    "Optimization",
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
    "epochs",
    "fit",
    "reports",
    "run",
]
