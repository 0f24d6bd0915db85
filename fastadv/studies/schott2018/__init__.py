"""Schott et al. 2018, "Towards the first adversarially robust neural network model on MNIST".

`digits` is the study in small, a part of the demo: an ABS trained on the embedded digits. `paper` is the
paper's own evaluation, on the weights that its authors published.
"""

from fastadv.studies.schott2018 import paper
from fastadv.studies.schott2018.digits import draw, findings, synthesis

__all__ = ["draw", "findings", "paper", "synthesis"]
