"""Figures: rows of images, accuracy against radius, nets side by side, thumbnails of constructed sets.

They are written atomically, as png, pdf or svg. They use matplotlib's objects alone: no pyplot, no global
state, no display. Colors are Okabe and Ito's, which people with color blindness can tell apart.
"""

from fastadv.evaluation.figures._bars import bars
from fastadv.evaluation.figures._curves import curves
from fastadv.evaluation.figures._panels import Panel, panels
from fastadv.evaluation.figures._thumbnails import thumbnails
from fastadv.evaluation.figures.images import Strip, examples, strips
from fastadv.evaluation.figures.style import BLUE, VERMILION, check_path

__all__ = [
    "BLUE",
    "VERMILION",
    "Panel",
    "Strip",
    "bars",
    "check_path",
    "curves",
    "examples",
    "panels",
    "strips",
    "thumbnails",
]
