"""Evaluation: a model under attacks as a table, draws of a randomized one, curves, and intervals."""

from fastadv.evaluation._outcome import Attack
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.draws import Draws
from fastadv.evaluation.external import External, external, save_external
from fastadv.evaluation.lower_bounds import lower_bounds
from fastadv.evaluation.measure import evaluate
from fastadv.evaluation.merge import merge
from fastadv.evaluation.optimality import local_optimality, optimality
from fastadv.evaluation.report import report
from fastadv.evaluation.robustbench import Corrupted, corruptions
from fastadv.evaluation.row import Row
from fastadv.evaluation.samples import Components, Examples, Samples
from fastadv.evaluation.table import Table
from fastadv.evaluation.transfer_matrix import TransferMatrix, transfer_matrix
from fastadv.intervals import Interval, bootstrap, clopper_pearson, mean, median

__all__ = [
    "Attack",
    "Components",
    "Corrupted",
    "Curve",
    "Draws",
    "Examples",
    "External",
    "Interval",
    "Row",
    "Samples",
    "Table",
    "TransferMatrix",
    "accuracy_against_radius",
    "bootstrap",
    "clopper_pearson",
    "corruptions",
    "evaluate",
    "external",
    "local_optimality",
    "lower_bounds",
    "mean",
    "median",
    "merge",
    "optimality",
    "report",
    "save_external",
    "transfer_matrix",
]
