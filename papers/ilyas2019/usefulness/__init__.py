"""Features of a network, and how useful they are, with and without an adversary.

Source: Ilyas et al. 2019 (arXiv 1905.02175), section 2.
"""

from papers.ilyas2019.usefulness.figure import scatter
from papers.ilyas2019.usefulness.measure import usefulness
from papers.ilyas2019.usefulness.result import Kind, Usefulness

__all__ = ["Kind", "Usefulness", "scatter", "usefulness"]
