"""Evaluation: a model under attacks as a table, draws of a randomized one, curves, and intervals."""

from fastadv.evaluation import robustbench as robustbench
from fastadv.evaluation.audit import Audit, Audited
from fastadv.evaluation.compare import Comparison, Difference, compare
from fastadv.evaluation.curve import Curve, accuracy_against_radius
from fastadv.evaluation.evaluate import evaluate
from fastadv.evaluation.report.page import report
from fastadv.evaluation.row import Row
from fastadv.evaluation.table import Table
from fastadv.evaluation.transferability import Transferability, transferability
from fastadv.intervals import bootstrap, clopper_pearson
from fastadv.measure.bound import Attack

__all__ = [
    "Attack",
    "Audit",
    "Audited",
    "Comparison",
    "Curve",
    "Difference",
    "Row",
    "Table",
    "Transferability",
    "accuracy_against_radius",
    "bootstrap",
    "clopper_pearson",
    "compare",
    "evaluate",
    "report",
    "transferability",
]
