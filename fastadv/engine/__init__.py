"""A classifier made fast: logits and input gradients, and no weight gradient ever."""

from fastadv.engine.freeze import freeze
from fastadv.engine.frozen import Frozen
from fastadv.engine.representation import representation

__all__ = ["Frozen", "freeze", "representation"]
