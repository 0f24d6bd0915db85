"""A classifier made fast: logits and input gradients, and no weight gradient ever."""

from fastadv.engine.confidence import log_confidence
from fastadv.engine.freeze import freeze
from fastadv.engine.frozen import Frozen
from fastadv.engine.representation import representation
from fastadv.engine.symptoms import Symptoms, symptoms

__all__ = ["Frozen", "Symptoms", "freeze", "log_confidence", "representation", "symptoms"]
