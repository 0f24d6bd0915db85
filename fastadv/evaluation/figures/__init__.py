"""Figures: rows of images, accuracy against radius, thumbnails of constructed sets.

They are written atomically, as png, pdf or svg. They use matplotlib's objects alone: no pyplot, no global
state, no display. Colors are Okabe and Ito's, which people with color blindness can tell apart.
"""

from fastadv.evaluation.figures._curves import curves
from fastadv.evaluation.figures.images import Strip, strips, thumbnails
from fastadv.evaluation.figures.style import BLUE, VERMILION, check_path

__all__ = ["BLUE", "VERMILION", "Strip", "check_path", "curves", "strips", "thumbnails"]
