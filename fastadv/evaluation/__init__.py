"""Evaluation: a model under attacks as a table, accuracy against radius, bootstrap intervals, and figures."""

from fastadv.evaluation import figures
from fastadv.evaluation.bootstrap import Interval, bootstrap, mean, median
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.measure import Attack, evaluate
from fastadv.evaluation.optimality import optimality
from fastadv.evaluation.table import Examples, Row, Samples, Table

__all__ = [
    "Attack",
    "Curve",
    "Examples",
    "Interval",
    "Row",
    "Samples",
    "Table",
    "accuracy_against_radius",
    "bootstrap",
    "evaluate",
    "figures",
    "mean",
    "median",
    "optimality",
]
