"""fastadv: compiled kernels for adversarial robustness.

    import fastadv as fa
    out = fa.attacks.pgd(model, x, y, fa.Linf(0.3), steps=40, step_size=0.01)

Attacks, the engine (`freeze`), threats (`Linf`, `L2`, `L1`, `L0`, maps such as
`Moved` and `Patch`), models, data (with `data.construct`),
training, evaluation (`evaluate`, `accuracy_against_radius`), certificates (`certify`), figures, and the ops
that the kernels serve.
"""

import gc as _gc
from typing import TYPE_CHECKING as _TYPE_CHECKING

# torch first: the extension then shares its OpenMP runtime
import torch as _torch

from fastadv import _version

_version.check_torch(_torch.__version__)

import torch.serialization as _saved

_collects = _gc.isenabled()
_gc.disable()  # a collection, which looks at all that torch holds, takes a third of this import
try:
    from fastadv import (
        adapters,
        attacks,
        certify,
        data,
        engine,
        errors,
        evaluation,
        losses,
        models,
        ops,
        rng,
        train,
    )  # fmt: skip
finally:
    if _collects:
        _gc.enable()

from fastadv._checks import unknown as _unknown
from fastadv.attacks.core.criterion import Goal as _Goal
from fastadv.attacks.criteria.signs import OneLogit as _OneLogit
from fastadv.attacks.masking.flags import Cost as _Cost
from fastadv.engine import Frozen, freeze
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import (
    Curve,
    accuracy_against_radius,
    bootstrap,
    evaluate,
    figures,
    transferability,
)
from fastadv.evaluation.draws import Draws as _Draws
from fastadv.evaluation.row import Components as _Components
from fastadv.evaluation.row import Samples as _Samples
from fastadv.ops.registration.library import backends
from fastadv.threat import L0, L1, L2, Linf, Moved, Patch, Scaled, Threat, Through
from fastadv.threat import THREATS as _THREATS
from fastadv.threat import Named as _Named
from fastadv.threat.through import Own as _Own
from fastadv.train.universal import universal as _universal

# The one attack on a data set, whose batches are those of training: `attacks` knows of neither
attacks.universal = _universal

# results are data, which torch.load reads by default: with weights_only=True
_saved.add_safe_globals(
    [
        *(*_THREATS.values(), _Named, _Own),
        *(attacks.AttackResult, attacks.AutoAttackResult, attacks.MinimumNormResult, attacks.Indicators),
        *(_Cost, evaluation.Table, evaluation.Row, evaluation.Transferability, _Components, _Draws, _Samples),
        *(certify.Certificates, train.UniversalResult),
        *(attacks.Criterion, attacks.ConfidentlyWrong, attacks.WrongBy, attacks.OutsideTopK),
        *(attacks.Unless, attacks.Signs, attacks.Share, attacks.Beyond, _OneLogit, _Goal),
    ]
)

__version__ = _version.__version__

__all__ = [
    "L0",
    "L1",
    "L2",
    "CorruptFileError",
    "Curve",
    "Frozen",
    "InputError",
    "Linf",
    "Moved",
    "Patch",
    "Scaled",
    "Threat",
    "Through",
    "accuracy_against_radius",
    "adapters",
    "attacks",
    "backends",
    "bootstrap",
    "certify",
    "data",
    "engine",
    "errors",
    "evaluate",
    "evaluation",
    "figures",
    "freeze",
    "losses",
    "models",
    "ops",
    "rng",
    "train",
    "transferability",
]

if not _TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Say which public name, or which attack, was meant."""
        names = [*__all__, *attacks.__all__]
        raise _unknown(__name__, name, names, lambda one: one if one in __all__ else f"attacks.{one}")
