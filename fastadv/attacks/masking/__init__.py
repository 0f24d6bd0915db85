"""Whether a model masks its gradients: indicators on the results of attacks, and a verdict in one line."""

from fastadv.attacks.masking.evidence import Evidence
from fastadv.attacks.masking.indicators import LOOKS, choose, indicators, look, look_through
from fastadv.attacks.masking.verdict import Indicators

__all__ = ["LOOKS", "Evidence", "Indicators", "choose", "indicators", "look", "look_through"]
