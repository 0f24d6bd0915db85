"""Evaluation: a model under attacks as a table, accuracy against radius, bootstrap intervals, and figures."""

from fastadv.evaluation import figures
from fastadv.evaluation._outcome import Attack
from fastadv.evaluation.bootstrap import Interval, bootstrap, mean, median
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.measure import evaluate
from fastadv.evaluation.optimality import optimality
from fastadv.evaluation.samples import Components, Examples, Samples
from fastadv.evaluation.table import Row, Table

__all__ = [
    "Attack",
    "Components",
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
