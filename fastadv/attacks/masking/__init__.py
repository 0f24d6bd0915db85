"""Whether a model masks its gradients: indicators on the results of attacks, and a verdict in one line."""

from fastadv.attacks.masking.evidence import Evidence, by_gradients_alone
from fastadv.attacks.masking.indicators import choose, indicators, look
from fastadv.attacks.masking.verdict import Indicators

__all__ = ["Evidence", "Indicators", "by_gradients_alone", "choose", "indicators", "look"]
