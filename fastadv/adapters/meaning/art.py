"""What the arguments of ART's evasion attacks mean here.

Each gives our attack with a threat in the unit box. Budgets go to the last step, as there.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import numpy as np

from fastadv import attacks
from fastadv.errors import InputError
from fastadv.threat import L1, L2, Linf

NORMS = {"inf": Linf, "2": L2, "1": L1}
INSTEAD = {
    "CarliniL0Method": "use fastadv.attacks.sigma_zero",
    "SaliencyMapMethod": "use fastadv.attacks.sigma_zero",
    "PixelAttack": "use fastadv.attacks.sparse_rs",
    "SimBA": "use SquareAttack",
    "SignOPTAttack": "use fastadv.attacks.hopskipjump",
    "GeoDA": "use fastadv.attacks.hopskipjump",
    "HopSkipJump": "use fastadv.attacks.hopskipjump, whose budget is in queries",
    "BoundaryAttack": "use fastadv.attacks.boundary, whose budget is in queries",
    "ZooAttack": "use fastadv.attacks.nes",
    "NewtonFool": "use DeepFool",
    "AutoConjugateGradient": "use AutoProjectedGradientDescent",
    "RescalingAutoConjugateGradient": "use AutoProjectedGradientDescent",
    "VirtualAdversarialMethod": "use fastadv.attacks.pgd with a loss of your own",
    "ProjectedGradientDescentPyTorch": "use ProjectedGradientDescent",
    "ProjectedGradientDescentNumpy": "use ProjectedGradientDescent",
}


def _threat(norm, eps):
    name = str(norm).removesuffix(".0")
    if name not in NORMS or np.ndim(eps):
        raise InputError(f"norm, eps: expected inf, 2 or 1 and one number, got {norm!r} and {eps!r}")
    return NORMS[name](float(eps))


def _steps(attack, norm, eps, eps_step, max_iter, **options):
    return partial(
        attack, threat=_threat(norm, eps), steps=max_iter, step_size=eps_step, loss="ce", stop_early=False,
        **options,
    )  # fmt: skip


def _fgsm(
    norm=np.inf, eps=0.3, eps_step=0.1, targeted=False, num_random_init=0, batch_size=32, minimal=False,
    summary_writer=False,
):  # fmt: skip
    if minimal:
        raise InputError("minimal: expected False, got True; use fastadv.attacks.minimum_radius")
    random = {"random_start": True, "restarts": num_random_init} if num_random_init else {}
    return partial(attacks.fgsm, threat=_threat(norm, eps), loss="ce", stop_early=False, **random)


def _pgd(
    norm=np.inf, eps=0.3, eps_step=0.1, decay=None, max_iter=100, targeted=False, num_random_init=0,
    batch_size=32, random_eps=False, summary_writer=False, verbose=True,
):  # fmt: skip
    if random_eps:
        raise InputError("random_eps: expected False, got True; draw eps yourself")
    random = {"random_start": num_random_init > 0, "restarts": max(num_random_init, 1)}
    if decay is not None:
        return _steps(attacks.mim, norm, eps, eps_step, max_iter, decay=decay, **random)
    return _steps(attacks.pgd, norm, eps, eps_step, max_iter, **random)


def _bim(eps=0.3, eps_step=0.1, max_iter=100, targeted=False, batch_size=32, verbose=True):
    return _steps(attacks.bim, np.inf, eps, eps_step, max_iter)


def _mim(
    norm=np.inf, eps=0.3, eps_step=0.1, decay=1.0, max_iter=100, targeted=False, batch_size=32, verbose=True
):
    return _steps(attacks.mim, norm, eps, eps_step, max_iter, decay=decay)


def _cw(
    confidence=0.0, targeted=False, learning_rate=0.01, binary_search_steps=10, max_iter=10,
    initial_const=0.01, max_halving=5, max_doubling=5, batch_size=1, verbose=True,
):  # fmt: skip
    """Run the published loop by Adam, without a line search to halve or double steps."""
    criterion = attacks.WrongBy(confidence) if confidence else None
    return partial(
        attacks.cw, threat=L2(inf), variant="published", steps=max_iter, searches=binary_search_steps,
        constant=initial_const, step_size=learning_rate, criterion=criterion,
    )  # fmt: skip


def _ead(
    confidence=0.0, targeted=False, learning_rate=1e-2, binary_search_steps=9, max_iter=100, beta=1e-3,
    initial_const=1e-3, batch_size=1, decision_rule="EN", verbose=True,
):  # fmt: skip
    """Keep the nearest in L1: decision_rule="L1" alone is served."""
    if decision_rule != "L1":
        raise InputError(f"decision_rule: expected 'L1', got {decision_rule!r}; no other distance is kept")
    criterion = attacks.WrongBy(confidence) if confidence else None
    return partial(
        attacks.ead, threat=L1(inf), variant="published", steps=max_iter, searches=binary_search_steps,
        constant=initial_const, beta=beta, step_size=learning_rate, criterion=criterion,
    )  # fmt: skip


def _deepfool(max_iter=100, epsilon=1e-6, nb_grads=10, batch_size=1, verbose=True):
    """Take `epsilon` for the share by which a step goes beyond the boundary."""
    options = {"candidates": max(nb_grads - 1, 1), "overshoot": epsilon}
    return partial(attacks.deepfool, threat=L2(inf), steps=max_iter, **options)


def _apgd(
    norm=np.inf, eps=0.3, eps_step=0.1, max_iter=100, targeted=False, nb_random_init=5, batch_size=32,
    loss_type=None, verbose=True,
):  # fmt: skip
    """Begin with the step of the paper, whatever `eps_step`."""
    losses = {None: "ce", "cross_entropy": "ce", "difference_logits_ratio": "dlr"}
    if loss_type not in losses:
        raise InputError(f"loss_type: expected one of {', '.join(map(str, losses))}, got {loss_type!r}")
    return partial(
        attacks.apgd, threat=_threat(norm, eps), steps=max_iter, restarts=max(nb_random_init, 1),
        loss=losses[loss_type],
    )  # fmt: skip


def _square(
    norm=np.inf, adv_criterion=None, loss=None, max_iter=100, eps=0.3, p_init=0.8, nb_restarts=1,
    batch_size=128, verbose=True,
):  # fmt: skip
    if adv_criterion is not None or loss is not None:
        raise InputError("adv_criterion, loss: expected None; fastadv.attacks.square has criterion=")
    return partial(
        attacks.square, threat=_threat(norm, eps), queries=max_iter, share=p_init, restarts=nb_restarts
    )


def _autoattack(
    norm=np.inf, eps=0.3, eps_step=0.1, attacks=None, batch_size=32, estimator_orig=None, targeted=False,
    parallel_pool_size=0,
):  # fmt: skip
    """Run the standard version of its authors, whatever `eps_step`."""
    if attacks is not None or estimator_orig is not None:
        raise InputError("attacks, estimator_orig: expected None; fastadv.attacks.autoattack has more")
    return partial(_standard, threat=_threat(norm, eps), indicators=False)


_standard = attacks.autoattack
MEANING: dict[str, tuple[str, Callable[..., Any]]] = {
    "FastGradientMethod": ("estimator", _fgsm),
    "ProjectedGradientDescent": ("estimator", _pgd),
    "BasicIterativeMethod": ("estimator", _bim),
    "MomentumIterativeMethod": ("estimator", _mim),
    "CarliniL2Method": ("classifier", _cw),
    "ElasticNet": ("classifier", _ead),
    "DeepFool": ("classifier", _deepfool),
    "AutoProjectedGradientDescent": ("estimator", _apgd),
    "SquareAttack": ("estimator", _square),
    "AutoAttack": ("estimator", _autoattack),
}
