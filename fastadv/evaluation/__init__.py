"""Evaluation: a model under attacks as a table, draws of a randomized one, curves, and intervals."""

from fastadv.evaluation._outcome import Attack
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.external import external
from fastadv.evaluation.measure import evaluate
from fastadv.evaluation.merge import merge
from fastadv.evaluation.optimality import optimality
from fastadv.evaluation.report import report
from fastadv.evaluation.robustbench import corruptions
from fastadv.evaluation.row import Row
from fastadv.evaluation.table import Table
from fastadv.evaluation.transfer_matrix import transfer_matrix
from fastadv.intervals import bootstrap, clopper_pearson

__all__ = [
    "Attack",
    "Curve",
    "Row",
    "Table",
    "accuracy_against_radius",
    "bootstrap",
    "clopper_pearson",
    "corruptions",
    "evaluate",
    "external",
    "merge",
    "optimality",
    "report",
    "transfer_matrix",
]
