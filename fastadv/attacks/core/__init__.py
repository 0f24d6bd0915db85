"""What an attack is written with: a rule says where to look, `run` does all the rest.

A rule is a function of a `Search`. It evaluates points, and the search keeps the best of each sample, counts
passes, marks what is not finite, lets samples leave, and proves each success on the model as given.
`docs/own_attack.md` has two attacks of a page each; CONTRIBUTING.md says what each name is for.
"""

from fastadv._checks import check_count
from fastadv.attacks.core.card import Attack
from fastadv.attacks.core.card import registered as registered
from fastadv.attacks.core.card import tested as tested
from fastadv.attacks.core.checks import check_finite_radius, check_norm
from fastadv.attacks.core.classified import Classified
from fastadv.attacks.core.common import Classifier, Common, GradientCommon, Variant, takes_common
from fastadv.attacks.core.criterion import WRONG, Criterion
from fastadv.attacks.core.gradient_rule import GradientRule
from fastadv.attacks.core.look import GradientLook, JacobianLook, Look, ScoredLook
from fastadv.attacks.core.record import Rows
from fastadv.attacks.core.repeat import repeat
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.run import run
from fastadv.attacks.core.search import Rule, Search
from fastadv.attacks.core.task import Task

__all__ = [
    "WRONG", "Attack", "AttackResult", "Classified", "Classifier", "Common", "Criterion",
    "GradientCommon", "GradientLook", "GradientRule", "JacobianLook", "Look", "Rows",
    "Rule", "ScoredLook", "Search", "Status", "Task", "Variant", "check_count",
    "check_finite_radius", "check_norm", "repeat", "run", "takes_common",
]  # fmt: skip
