"""What the arguments of foolbox' classes mean here: a kind of threat, and an attack for each radius.

Budgets go to the last step, as there.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from fastadv import attacks
from fastadv.errors import InputError
from fastadv.threat import L0, L1, L2, Linf

# by patterns
INSTEAD = {
    "*ContrastReductionAttack": "fastadv has none",
    "*BrendelBethgeAttack": "use an FMN attack",
    "NewtonFoolAttack": "use an FMN attack",
    "*GaussianNoiseAttack": "use fastadv.attacks.gaussian_noise, which looks for the least noise",
    "*UniformNoiseAttack": "use fastadv.attacks.uniform_noise, which looks for the least noise",
    "*Adam*": "use fastadv.attacks.apgd, which adapts its steps",
    "VirtualAdversarialAttack": "use fastadv.attacks.pgd with a loss of your own",
    "SparseL1DescentAttack": "use fastadv.attacks.apgd in fastadv.L1",
    "SaltAndPepperNoiseAttack": "use fastadv.attacks.salt_and_pepper, whose budget is in levels",
    "PointwiseAttack": "use fastadv.attacks.pointwise, whose budget is in queries",
    "BinarizationRefinementAttack": "use fastadv.attacks.pointwise",
    "GenAttack": "use fastadv.attacks.square",
    "DatasetAttack": "use fastadv.attacks.boundary with starts=",
    "InversionAttack": "negate the images",
    "GaussianBlurAttack": "blur the images",
    "SpatialAttack": "use foolbox; fastadv has no spatial attack",
}


def _steps(kind, attack, radius, rel_stepsize, abs_stepsize, **options):
    # at radius 0 nothing moves, and a step has no length
    size = None if radius == 0 else rel_stepsize * radius if abs_stepsize is None else abs_stepsize
    return partial(attack, threat=kind(radius), step_size=size, loss="ce", stop_early=False, **options)


def _pgd(kind, rel, number):
    def make(*, rel_stepsize=rel, abs_stepsize=None, steps=number, random_start=True):
        options = {"steps": steps, "random_start": random_start}
        return lambda radius: _steps(kind, attacks.pgd, radius, rel_stepsize, abs_stepsize, **options)

    return make


def _bim(kind):
    def make(*, rel_stepsize=0.2, abs_stepsize=None, steps=10, random_start=False):
        options = {"steps": steps, "random_start": random_start}
        return lambda radius: _steps(kind, attacks.bim, radius, rel_stepsize, abs_stepsize, **options)

    return make


def _mim(kind):
    def make(*, momentum=1.0, rel_stepsize=0.2, abs_stepsize=None, steps=10, random_start=False):
        options = {"steps": steps, "random_start": random_start, "decay": momentum}
        return lambda radius: _steps(kind, attacks.mim, radius, rel_stepsize, abs_stepsize, **options)

    return make


def _fgsm(kind):
    def make(*, random_start=False):
        return lambda radius: partial(
            attacks.fgsm, threat=kind(radius), random_start=random_start, loss="ce", stop_early=False
        )

    return make


def _nearest(attack, kind, **options):
    return lambda radius: partial(attack, threat=kind(inf), **options)


def _ddn(*, init_epsilon=1.0, steps=100, gamma=0.05):
    return _nearest(attacks.ddn, L2, steps=steps, gamma=gamma, first_norm=init_epsilon)


def _cw(
    *, binary_search_steps=9, steps=10000, stepsize=1e-2, confidence=0, initial_const=1e-3, abort_early=True
):
    """Run the published loop; a success leads by the confidence."""
    criterion = attacks.WrongBy(confidence) if confidence else None
    return _nearest(
        attacks.cw, L2, variant="published", searches=binary_search_steps, steps=steps, step_size=stepsize,
        constant=initial_const, criterion=criterion,
    )  # fmt: skip


def _ead(
    *, binary_search_steps=9, steps=10000, initial_stepsize=1e-2, confidence=0.0, initial_const=1e-3,
    regularization=1e-2, decision_rule="EN", abort_early=True,
):  # fmt: skip
    """Keep the nearest in L1: decision_rule="L1" alone is served."""
    if decision_rule != "L1":
        raise InputError(f"decision_rule: expected 'L1', got {decision_rule!r}; no other distance is kept")
    criterion = attacks.WrongBy(confidence) if confidence else None
    return _nearest(
        attacks.ead, L1, variant="published", searches=binary_search_steps, steps=steps,
        step_size=initial_stepsize, constant=initial_const, beta=regularization, criterion=criterion,
    )  # fmt: skip


def _deepfool(kind):
    def make(*, steps=50, candidates=10, overshoot=0.02, loss="logits"):
        if loss != "logits":
            raise InputError(f"loss: expected 'logits', got {loss!r}; boundaries are those of the logits")
        # they count the label among the candidates
        others = None if candidates is None else max(candidates - 1, 1)
        return _nearest(attacks.deepfool, kind, steps=steps, candidates=others, overshoot=overshoot)

    return make


def _fmn(kind):
    def make(
        *, steps=100, max_stepsize=1.0, min_stepsize=None, gamma=0.05, init_attack=None,
        binary_search_steps=10,
    ):  # fmt: skip
        """Start at x: an init_attack is refused, and min_stepsize is that of the paper."""
        if init_attack is not None or min_stepsize is not None:
            raise InputError("init_attack, min_stepsize: expected None; fastadv.attacks.fmn has starts=")
        return _nearest(attacks.fmn, kind, steps=steps, step_size=max_stepsize, gamma=gamma)

    return make


DESCENT = {
    f"{kind.__name__}{name}": make(kind)
    for kind in (L1, L2, Linf)
    for name, make in {
        "ProjectedGradientDescentAttack": lambda kind: (
            _pgd(kind, 0.01 / 0.3, 40) if kind is Linf else _pgd(kind, 0.025, 50)
        ),
        "BasicIterativeAttack": _bim,
        "MomentumIterativeFastGradientMethod": _mim,
        "FastGradientAttack": _fgsm,
    }.items()
}
MINIMUM = {
    "DDNAttack": _ddn,
    "L2CarliniWagnerAttack": _cw,
    "EADAttack": _ead,
    "L2DeepFoolAttack": _deepfool(L2),
    "LinfDeepFoolAttack": _deepfool(Linf),
    "L0FMNAttack": _fmn(L0),
    "L1FMNAttack": _fmn(L1),
    "L2FMNAttack": _fmn(L2),
    "LInfFMNAttack": _fmn(Linf),
}
MEANING: dict[str, Callable[..., Any]] = DESCENT | MINIMUM
ALIASES = {
    "FGM": "L2FastGradientAttack", "FGSM": "LinfFastGradientAttack",
    "L1PGD": "L1ProjectedGradientDescentAttack", "L2PGD": "L2ProjectedGradientDescentAttack",
    "LinfPGD": "LinfProjectedGradientDescentAttack", "PGD": "LinfProjectedGradientDescentAttack",
    "MIFGSM": "LinfMomentumIterativeFastGradientMethod",
}  # fmt: skip
