"""The recipes that the paper alone trains by; `fa.train.fit` takes an instance of each."""

from papers.goodfellow2014.recipes.hidden_fgsm import HiddenFGSM
from papers.goodfellow2014.recipes.l1 import WeightDecayL1
from papers.goodfellow2014.recipes.noise import InputNoise
from papers.goodfellow2014.recipes.robust_logistic import RobustLogistic
from papers.goodfellow2014.recipes.rubbish import RubbishTraining

__all__ = ["HiddenFGSM", "InputNoise", "RobustLogistic", "RubbishTraining", "WeightDecayL1"]

for recipe in (HiddenFGSM, InputNoise, RobustLogistic, RubbishTraining, WeightDecayL1):
    recipe.__module__ = "fastadv.train.recipes"  # as the run folders of `fastadv study` know it
