"""Whether a model masks its gradients: signs in results of attacks and at a few samples, and a verdict."""

from fastadv.attacks.masking.evidence import Evidence
from fastadv.attacks.masking.signs import choose, look
from fastadv.attacks.masking.verdict import Indicators

__all__ = ["Evidence", "Indicators", "choose", "look"]
