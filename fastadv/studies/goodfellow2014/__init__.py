"""Goodfellow, Shlens, Szegedy 2014, "Explaining and harnessing adversarial examples".

`paper` is the study: the tables of the paper, with every network that they need.
"""

from fastadv.studies.goodfellow2014 import paper
from fastadv.studies.goodfellow2014.settings import SCALES, Settings

__all__ = ["SCALES", "Settings", "paper"]
