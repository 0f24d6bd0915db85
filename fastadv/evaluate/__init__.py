"""Evaluation: the table of a model under attacks, accuracy against radius, and the figures."""

from fastadv.evaluate import figures
from fastadv.evaluate.curve import Curve, accuracy_against_radius
from fastadv.evaluate.measure import Attack, evaluate
from fastadv.evaluate.table import Examples, Row, Table

__all__ = ["Attack", "Curve", "Examples", "Row", "Table", "accuracy_against_radius", "evaluate", "figures"]
