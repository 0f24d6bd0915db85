"""What the arguments of SecML-Torch's evasion attacks mean here, whatever the backend.

Each gives our attack with a threat. Budgets go to the last step, as in its own backend.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from fastadv import attacks
from fastadv.errors import InputError
from fastadv.threat import THREATS

INSTEAD = {
    "BoundaryAttack": "use fastadv.attacks.boundary, whose budget is in queries",
    "HopSkipJump": "use fastadv.attacks.hopskipjump, whose budget is in queries",
    "SaltAndPepperNoise": "use fastadv.attacks.salt_and_pepper, whose budget is in levels",
    "ContrastReduction": "fastadv has none",
    "AdditiveNoise": "use fastadv.attacks.gaussian_noise or uniform_noise, which look for the least noise",
    "GaussianBlur": "blur the images",
    "SpatialAttack": "use secmlt; fastadv has no spatial attack",
    "VAT": "use fastadv.attacks.pgd with a loss of your own",
}
BACKENDS = ("foolbox", "advlib", "native")


def _threat(norm, radius, lb, ub, backend, trackers, norms=("l1", "l2", "linf")):
    if norm not in norms:
        raise InputError(f"perturbation_model: expected one of {', '.join(norms)}, got {norm!r}")
    if backend not in BACKENDS:
        raise InputError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if trackers is not None:
        raise InputError("trackers: expected None, got some; a fastadv attack tells its result alone")
    return THREATS[norm](radius, box=(lb, ub))


def _pgd(
    perturbation_model, epsilon, num_steps, step_size, random_start=False, y_target=None, lb=0.0, ub=1.0,
    backend="foolbox", trackers=None,
):  # fmt: skip
    threat = _threat(perturbation_model, epsilon, lb, ub, backend, trackers)
    return partial(
        attacks.pgd, threat=threat, steps=num_steps, step_size=step_size, random_start=random_start,
        loss="ce", stop_early=False,
    )  # fmt: skip


def _fgsm(
    perturbation_model, epsilon, loss_function="ce", y_target=None, lb=0.0, ub=1.0, backend="foolbox",
    trackers=None,
):  # fmt: skip
    threat = _threat(perturbation_model, epsilon, lb, ub, backend, trackers)
    return partial(attacks.fgsm, threat=threat, loss=loss_function, stop_early=False)


def _fmn(
    perturbation_model, num_steps, step_size, min_step_size=None, gamma=0.05, y_target=None, lb=0.0, ub=1.0,
    backend="native", trackers=None,
):  # fmt: skip
    """Let the step fall to 1% as in the paper: min_step_size is refused."""
    if min_step_size is not None:
        raise InputError("min_step_size: expected None, a hundredth of step_size, got another")
    threat = _threat(perturbation_model, inf, lb, ub, backend, trackers, tuple(THREATS))
    return partial(attacks.fmn, threat=threat, steps=num_steps, step_size=step_size, gamma=gamma)


def _ddn(
    num_steps, eps_init=8 / 255, gamma=0.05, y_target=None, lb=0.0, ub=1.0, backend="native", trackers=None
):
    threat = _threat("l2", inf, lb, ub, backend, trackers)
    return partial(attacks.ddn, threat=threat, steps=num_steps, gamma=gamma, first_norm=eps_init)


def _cw(
    binary_search_steps=9, num_steps=10000, step_size=0.01, confidence=0.0, initial_const=0.001,
    abort_early=True, y_target=None, lb=0.0, ub=1.0, backend="foolbox", trackers=None,
):  # fmt: skip
    """Run the published loop; a success leads by the confidence."""
    criterion = attacks.WrongBy(confidence) if confidence else None
    return partial(
        attacks.cw, threat=_threat("l2", inf, lb, ub, backend, trackers), variant="published",
        searches=binary_search_steps, steps=num_steps, step_size=step_size, constant=initial_const,
        criterion=criterion,
    )  # fmt: skip


def _deepfool(num_steps=50, overshoot=0.02, candidates=10, lb=0.0, ub=1.0, backend="foolbox", trackers=None):
    # the label is among their candidates
    others = None if candidates is None else max(candidates - 1, 1)
    threat = _threat("l2", inf, lb, ub, backend, trackers)
    return partial(attacks.deepfool, threat=threat, steps=num_steps, overshoot=overshoot, candidates=others)


MEANING: dict[str, Callable[..., Any]] = {
    "PGD": _pgd, "FGSM": _fgsm, "FMN": _fmn, "DDN": _ddn, "CW": _cw, "DeepFool": _deepfool,
}  # fmt: skip
