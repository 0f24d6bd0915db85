"""The studies: one module for each paper, and the demo that runs them on the embedded digits.

A study says what runs, what is compared and what is drawn. It uses the public names of fastadv as its users
do, prints nothing, and returns JSON-able figures; the commands print them.
"""

from fastadv.studies import demo, ilyas2019, recipes, schott2018, speedrun
from fastadv.studies.study import SIZES, TINY, Settings, Study

__all__ = ["SIZES", "TINY", "Settings", "Study", "demo", "ilyas2019", "recipes", "schott2018", "speedrun"]
