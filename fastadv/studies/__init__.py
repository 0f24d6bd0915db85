"""The studies: three papers, recipes side by side, a speedrun, and the demo on the embedded digits.

A study says what runs, what is compared and what is drawn. It uses the public names of fastadv as its users
do, prints nothing, and returns JSON-able figures; the commands print them.
"""

from fastadv.studies import demo, goodfellow2014, ilyas2019, recipes, schott2018, speedrun
from fastadv.studies.study import SIZES, TINY, Settings, Study

__all__ = [
    "SIZES",
    "TINY",
    "Settings",
    "Study",
    "demo",
    "goodfellow2014",
    "ilyas2019",
    "recipes",
    "schott2018",
    "speedrun",
]
