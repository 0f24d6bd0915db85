"""What the arguments of torchattacks' classes mean here. Budgets go to the last step, as there."""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from fastadv import attacks
from fastadv.errors import InputError
from fastadv.threat import L1, L2, Linf

NORMS = {"Linf": Linf, "L2": L2, "L1": L1}
INSTEAD = {
    "MultiAttack": "use fastadv.evaluate with several attacks",
    "VANILA": "use the images themselves",
    "GN": "use fastadv.attacks.gaussian_noise, which looks for the least noise",
    "RFGSM": "use PGD, which starts at a random point of the ball",
    "TPGD": "use fastadv.attacks.pgd with a loss of your own",
    "UPGD": "use PGD, or MIFGSM for its momentum",
    "Jitter": "use fastadv.attacks.apgd with loss='dlr'",
    "PGDRS": "use EOTPGD, or fastadv.attacks.pgd with eot=",
    "PGDRSL2": "use fastadv.attacks.pgd with eot= in fastadv.L2",
    "JSMA": "use fastadv.attacks.sigma_zero, or sparse_rs without gradients",
    "OnePixel": "use fastadv.attacks.sparse_rs",
    "Pixle": "use fastadv.attacks.sparse_rs",
    "SparseFool": "use fastadv.attacks.sigma_zero",
    "EADEN": "use EADL1, whose decision rule is the L1 distance",
    **dict.fromkeys(
        ("DIFGSM", "NIFGSM", "PIFGSM", "PIFGSMPP", "SINIFGSM", "TIFGSM", "VMIFGSM", "VNIFGSM"),
        "use MIFGSM, or fastadv.attacks.mim with gradient=, a rule of fastadv.attacks.rules",
    ),
    "LGV": "attack the mean of the probabilities of the collected models",
}


def _ball(attack, threat, **options):
    return partial(attack, threat=threat, loss="ce", stop_early=False, **options)


def _pgd(eps=8 / 255, alpha=2 / 255, steps=10, random_start=True):
    return _ball(attacks.pgd, Linf(eps), steps=steps, step_size=alpha, random_start=random_start)


def _in_norm(attack, norm, eps, **options):
    return partial(attack, threat=NORMS[norm](eps), **options)


def _nearest(attack, threat, kappa, **options):
    """Run a published loop, whose successes lead by kappa, whatever the radius."""
    criterion = attacks.WrongBy(kappa) if kappa else None
    return partial(attack, threat=threat, variant="published", criterion=criterion, **options)


def _apgd(
    norm="Linf", eps=8 / 255, steps=10, n_restarts=1, seed=0, loss="ce", eot_iter=1, rho=0.75, verbose=False
):
    options = {"steps": steps, "restarts": n_restarts, "eot": eot_iter, "rho": rho}
    return _in_norm(attacks.apgd, norm, eps, seed=seed, loss=loss, **options)


def _apgdt(
    norm="Linf", eps=8 / 255, steps=10, n_restarts=1, seed=0, eot_iter=1, rho=0.75, verbose=False,
    n_classes=10,
):  # fmt: skip
    attack = _apgd(norm, eps, steps, n_restarts, seed, "dlr-targeted", eot_iter, rho)
    return partial(attack, classes=n_classes - 1)


def _eadl1(
    kappa=0, lr=0.01, binary_search_steps=9, max_iterations=100, abort_early=True, initial_const=0.001,
    beta=0.001,
):  # fmt: skip
    """Go on to the last step of every search, whatever `abort_early`."""
    options = {"steps": max_iterations, "searches": binary_search_steps, "constant": initial_const}
    return _nearest(attacks.ead, L1(inf), kappa, step_size=lr, beta=beta, **options)


def _fab(
    norm="Linf", eps=8 / 255, steps=10, n_restarts=1, alpha_max=0.1, eta=1.05, beta=0.9, verbose=False,
    seed=0, multi_targeted=False, n_classes=10,
):  # fmt: skip
    options = {"bias": alpha_max, "overshoot": eta, "backward": beta, "targeted": multi_targeted}
    options |= {"steps": steps, "restarts": n_restarts, "classes": n_classes - 1, "restart_radius": eps}
    return _in_norm(attacks.fab, norm, eps, seed=seed, **options)


def _square(
    norm="Linf", eps=8 / 255, n_queries=5000, n_restarts=1, p_init=0.8, loss="margin", resc_schedule=True,
    seed=0, verbose=False,
):  # fmt: skip
    if loss != "margin":
        raise InputError(f"loss: expected 'margin', got {loss!r}; our Square has no other")
    options = {"queries": n_queries, "restarts": n_restarts, "share": p_init, "rescale": resc_schedule}
    return _in_norm(attacks.square, norm, eps, seed=seed, **options)


def _cw(c=1, kappa=0, steps=50, lr=0.01):
    """Run the published loop with the one constant c; a success leads by kappa."""
    return _nearest(attacks.cw, L2(inf), kappa, constant=float(c), steps=steps, searches=1, step_size=lr)


def _autoattack(norm="Linf", eps=8 / 255, version="standard", n_classes=10, seed=None, verbose=False):
    """Take the steps of the paper, where torchattacks takes 10 for APGD and FAB."""
    return _in_norm(attacks.autoattack, norm, eps, version=version, seed=seed, indicators=False)


MEANING: dict[str, Callable[..., Any]] = {
    "FGSM": lambda eps=8 / 255: _ball(attacks.fgsm, Linf(eps)),
    "BIM": lambda eps=8 / 255, alpha=2 / 255, steps=10: _ball(
        attacks.bim, Linf(eps), step_size=alpha, steps=steps or int(min(eps * 255 + 4, 1.25 * eps * 255))
    ),
    "PGD": _pgd,
    "PGDL2": lambda eps=1.0, alpha=0.2, steps=10, random_start=True, eps_for_division=1e-10: _ball(
        attacks.pgd, L2(eps), steps=steps, step_size=alpha, random_start=random_start
    ),
    "EOTPGD": lambda eps=8 / 255, alpha=2 / 255, steps=10, eot_iter=2, random_start=True: partial(
        _pgd(eps, alpha, steps, random_start), eot=eot_iter
    ),
    "FFGSM": lambda eps=8 / 255, alpha=10 / 255: _pgd(eps, alpha, 1),
    "MIFGSM": lambda eps=8 / 255, alpha=2 / 255, steps=10, decay=1.0: _ball(
        attacks.mim, Linf(eps), steps=steps, step_size=alpha, decay=decay
    ),
    "SPSA": lambda eps=0.3, delta=0.01, lr=0.01, nb_iter=1, nb_sample=128, max_batch_size=64: _ball(
        attacks.spsa, Linf(eps), queries=(2 * nb_sample + 1) * nb_iter, directions=nb_sample, probe=delta,
        step_size=lr,
    ),
    "DeepFool": lambda steps=50, overshoot=0.02: partial(
        attacks.deepfool, threat=L2(inf), steps=steps, overshoot=overshoot, candidates=None
    ),
    "APGD": _apgd, "APGDT": _apgdt, "CW": _cw, "EADL1": _eadl1, "FAB": _fab, "Square": _square,
    "AutoAttack": _autoattack,
}  # fmt: skip
