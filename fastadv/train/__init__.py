"""Training: recipes (what is minimized) and `fit` (how), with checkpoints that resume bit for bit."""

from dataclasses import is_dataclass

from fastadv._checks import knowing_fields
from fastadv.train import augment, presets, recipes
from fastadv.train.fit import epochs, fit
from fastadv.train.options import Ending, Execution, Measuring, Optimization
from fastadv.train.perturbation import UniversalResult
from fastadv.train.recipes import *  # noqa: F403
from fastadv.train.report import EpochReport, reports
from fastadv.train.schedules import Cyclic, OneCycle, Piecewise

__all__ = [
    "Cyclic",
    "Ending",
    "EpochReport",
    "Execution",
    "Measuring",
    "OneCycle",
    "Optimization",
    "Piecewise",
    "UniversalResult",
    "augment",
    "epochs",
    "fit",
    "presets",
    "reports",
]
__all__ += recipes.__all__

for _name in __all__:  # recipes and options say which of their fields was meant
    if isinstance(_kind := globals()[_name], type) and is_dataclass(_kind):
        knowing_fields(_kind)
