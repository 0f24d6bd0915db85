"""A classifier as attacks ask it: plain, or made fast by `freeze`; and no weight gradient ever."""

from fastadv.engine.freeze import freeze
from fastadv.engine.frozen import Frozen
from fastadv.engine.plain import Plain
from fastadv.engine.prepare import prepare
from fastadv.engine.prepared import Model, Prepared

__all__ = ["Frozen", "Model", "Plain", "Prepared", "freeze", "prepare"]
