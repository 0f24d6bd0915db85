"""A classifier made fast: logits and input gradients, and no weight gradient ever."""

from fastadv.engine.confidence import log_confidence
from fastadv.engine.freeze import freeze
from fastadv.engine.frozen import Frozen

__all__ = ["Frozen", "freeze", "log_confidence"]
