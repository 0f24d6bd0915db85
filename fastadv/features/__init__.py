"""Features of a network, and how useful they are, with and without an adversary.

Source: Ilyas et al. 2019 (arXiv 1905.02175), section 2.
"""

from fastadv.features.figure import scatter
from fastadv.features.result import Kind, Usefulness
from fastadv.features.usefulness import usefulness

__all__ = ["Kind", "Usefulness", "scatter", "usefulness"]
