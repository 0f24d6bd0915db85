"""fastadv: compiled kernels for adversarial robustness.

    import fastadv as fa
    out = fa.attacks.pgd(model, x, y, fa.Linf(0.3), steps=40, step_size=0.01)

Attacks, the engine (`freeze`), threats (`Linf`, `L2`, `L1`, `L0`), models, data (with `data.construct`),
training, evaluation (`evaluate`, `accuracy_against_radius`), certificates (`certify`), figures, and the ops
that the kernels serve.
"""

# torch first: the extension then shares its OpenMP runtime
import torch as _torch

from fastadv import _version

_version.check_torch(_torch.__version__)

from fastadv import (
    adapters,
    attacks,
    certify,
    data,
    engine,
    errors,
    evaluation,
    features,
    losses,
    models,
    ops,
    rng,
    train,
)  # fmt: skip
from fastadv.engine import Frozen, freeze
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import Curve, accuracy_against_radius, bootstrap, evaluate, figures, optimality
from fastadv.ops.registration.library import backends
from fastadv.threat import L0, L1, L2, Linf, Threat

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
    "Threat",
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
    "features",
    "figures",
    "freeze",
    "losses",
    "models",
    "ops",
    "optimality",
    "rng",
    "train",
]
