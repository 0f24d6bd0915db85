"""Ilyas et al. 2019, "Adversarial examples are not bugs, they are features".

`digits` is the study in small, a part of the demo: the four sets, and nets trained on them. `features`
measures how useful the features of a standard and of an adversarially trained net are (section 2). `theory`
checks the three theorems of section 4.
"""

from fastadv.studies.ilyas2019 import features, theory
from fastadv.studies.ilyas2019.digits import LEARNED, SOURCE, draw, findings, measured, nets

__all__ = ["LEARNED", "SOURCE", "draw", "features", "findings", "measured", "nets", "theory"]
