"""Evaluation: the table of a model under attacks, accuracy against radius, and the figures."""

from fastadv.evaluation import figures
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.measure import Attack, evaluate
from fastadv.evaluation.table import Examples, Row, Table

__all__ = ["Attack", "Curve", "Examples", "Row", "Table", "accuracy_against_radius", "evaluate", "figures"]
