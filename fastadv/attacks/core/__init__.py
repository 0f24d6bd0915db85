"""What an attack is written with: a rule says where to look, `run` does all the rest.

A rule is a function of a `Search`. It evaluates points, and the search keeps the best of each sample, counts
passes, marks what is not finite, lets samples leave, and proves each success on the model as given.
`docs/own_attack.md` has two attacks of a page each; CONTRIBUTING.md says what each name is for.
"""

from fastadv._checks import check_count, check_number, check_share
from fastadv.attacks.core.card import Attack
from fastadv.attacks.core.common import Classifier, Common, GradientCommon, takes_common
from fastadv.attacks.core.criterion import WRONG, ConfidentlyWrong, Criterion, OutsideTopK, WrongBy
from fastadv.attacks.core.full_batches import side_by_side
from fastadv.attacks.core.gradient_rule import Ask, GradientRule, rules_of
from fastadv.attacks.core.inner import InnerAttack, check_attack, merge_result, run_inner
from fastadv.attacks.core.look import GradientLook, JacobianLook, Look, ScoredLook
from fastadv.attacks.core.plan import Over
from fastadv.attacks.core.problem import (
    Problem,
    StepSize,
    check_finite_box,
    check_finite_radius,
    check_norm,
    check_step_size,
    check_threat,
)
from fastadv.attacks.core.record import Climb, Record, Rows, Steps
from fastadv.attacks.core.repeat import repeat
from fastadv.attacks.core.result import AttackResult, Status
from fastadv.attacks.core.run import run
from fastadv.attacks.core.samples import Samples
from fastadv.attacks.core.search import Rule, Search
from fastadv.attacks.core.variant import Variant
from fastadv.attacks.core.waiting import may_leave, waits

__all__ = [
    "WRONG", "Ask", "Attack", "AttackResult", "Classifier", "Climb", "Common", "ConfidentlyWrong",
    "Criterion", "GradientCommon", "GradientLook", "GradientRule", "InnerAttack", "JacobianLook",
    "Look", "OutsideTopK", "Over", "Problem", "Record", "Rows", "Rule", "Samples", "ScoredLook", "Search",
    "Status", "StepSize", "Steps", "Variant", "WrongBy", "check_attack", "check_count", "check_finite_box",
    "check_finite_radius", "check_norm", "check_number", "check_share", "check_step_size", "check_threat",
    "may_leave", "merge_result", "repeat", "rules_of", "run", "run_inner", "side_by_side", "takes_common",
    "waits",
]  # fmt: skip
