"""Attacks of other packages, called alike: `peer.run(model, x, y, radius, seed=0, **budget)` gives x_adv.

Those on PyPI come with the extra `bench`. The rest are used where they can be imported: the folders that the
environment variable FASTADV_PEERS names, as PATH does, are searched too; of the last of these repositories
it is semseg/utils. The stored figures come from the COMMITS of github.com/fra31/auto-attack, fra31/sparse-rs,
sigma0-advx/sigma-zero and nmndeep/robust-segmentation.

Packages are imported inside the calls: one that is missing costs its own rows only. They draw from the global
generators, which are seeded before each run.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastadv._torchvision  # noqa: F401  adv-lib imports torchvision, which fails beside a CPU-only torch

COMMITS = {
    "auto-attack": "a39220048b3c", "sparse-rs": "21d875969a14", "sigma-zero": "f79dedded5c5",
    "robust-segmentation": "afe839e",
}  # fmt: skip
sys.path += filter(None, os.environ.get("FASTADV_PEERS", "").split(os.pathsep))
P = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": inf}
# the names of a budget in other packages
WORDS = {
    "adv-lib": {"steps": "steps", "searches": "binary_search_steps"},
    "adv-lib (num_steps)": {"steps": "num_steps"},
    "adv-lib (n_iter)": {"steps": "n_iter", "searches": "binary_search_steps"},
    "adv-lib (max_iterations)": {"steps": "max_iterations", "searches": "binary_search_steps"},
    "foolbox": {"steps": "steps", "searches": "binary_search_steps", "queries": "repeats"},
    "torchattacks": {"steps": "steps", "step_size": "alpha", "queries": "n_queries"},
    "torchattacks (max_iterations)": {"steps": "max_iterations", "searches": "binary_search_steps"},
    "torchattacks (nb_iter)": {"steps": "nb_iter"},
    "auto-attack": {"steps": "n_iter", "queries": "n_queries", "version": "version"},
    "sigma-zero": {"steps": "steps"},
    "sparse-rs": {"queries": "n_queries"},
    "robust-segmentation": {"steps": "n_iter"},
}


@dataclass(frozen=True)
class Peer:
    """An attack of another package; `settings` is what it is given beside the budget, in its own words."""

    package: str
    settings: str
    run: Callable[..., Tensor]

    @property
    def name(self) -> str:
        return f"{self.package} {self.version} {self.settings}"

    @property
    def version(self) -> str:
        """Of the installed package, or else the commit that the stored figures come from."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return COMMITS.get(self.package, "unknown")


def _peer(
    package: str,
    attack: str,
    fixed: dict[str, Any],
    words: str,
    call: Callable[..., Any],
    seeded: bool = False,
    **said: Any,
) -> Peer:
    """`call(model, x, y, radius, **given)`, with the budget renamed and generators (or `seeded`) seeded."""

    def run(model: nn.Module, x: Tensor, y: Tensor, radius: float, seed: int = 0, **budget: Any) -> Tensor:
        arguments = {WORDS[words][name]: value for name, value in budget.items()}
        arguments |= {"seed": seed} if seeded else {}
        torch.manual_seed(seed)
        np.random.seed(seed)
        out: Tensor = call(model, x.clone(), y.clone(), radius, **arguments, **fixed)
        return out.detach()

    settings = ", ".join(f"{name}={value}" for name, value in (fixed | said).items())
    return Peer(package, f"{attack}({settings})", run)


def adv_lib(attack: str, words: str = "adv-lib", radius_as: str = "", **fixed: Any) -> Peer:
    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        module = "adv_lib.attacks.auto_pgd" if "apgd" in attack else "adv_lib.attacks"
        eps = {radius_as: radius} if radius_as else {}
        return getattr(import_module(module), attack)(model, x, y, **eps, **arguments)

    return _peer("adv-lib", attack, fixed, words, call)


def foolbox(attack: str, **fixed: Any) -> Peer:
    """A minimum-norm attack of foolbox. Its DDN finds what adv-lib's does, its FMN no more."""

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        wrapped = import_module("foolbox").PyTorchModel(model, bounds=(0, 1), device=x.device)
        return getattr(import_module("foolbox.attacks"), attack)(**arguments)(wrapped, x, y, epsilons=None)[0]

    return _peer("foolbox", attack, fixed, "foolbox", call)


def foolbox_budget(attack: str, estimated: int = 0, **fixed: Any) -> Peer:
    """An attack of foolbox inside a ball; with gradients estimated from so many samples, image by image."""

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        wrapped = import_module("foolbox").PyTorchModel(model, bounds=(0, 1), device=x.device)
        chosen = getattr(import_module("foolbox.attacks"), attack)
        if not estimated:
            return chosen(**arguments)(wrapped, x, y, epsilons=radius)[1]
        # its estimate adds up the losses of a batch, so that one image is noise to another
        estimator = import_module("foolbox.gradient_estimators").es_gradient_estimator
        chosen = estimator(chosen, samples=estimated, sigma=0.01, bounds=(0, 1), clip=False)
        pairs = zip(x.split(1), y.split(1), strict=True)
        return torch.cat([chosen(**arguments)(wrapped, *pair, epsilons=radius)[1] for pair in pairs])

    said = {"samples": estimated} if estimated else {}
    return _peer("foolbox", attack, fixed, "foolbox", call, **said)


def foolbox_decision(attack: str, start: str, **fixed: Any) -> Peer:
    """A decision attack of foolbox from the points that `start` finds; images without one come back."""

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        attacks = import_module("foolbox.attacks")
        wrapped = import_module("foolbox").PyTorchModel(model, bounds=(0, 1), device=x.device)
        steps = {"steps": 50} if start == "LinearSearchBlendedUniformNoiseAttack" else {}
        points, _, started = getattr(attacks, start)(**steps)(wrapped, x, y, epsilons=None)
        out = x.clone()
        if started.any():
            out[started] = getattr(attacks, attack)(**arguments)(
                wrapped, x[started], y[started], starting_points=points[started], epsilons=None
            )[0]
        return out

    return _peer("foolbox", attack, fixed, "foolbox", call)


def torchattacks(attack: str, words: str = "torchattacks", relative: float = 0, **fixed: Any) -> Peer:
    """An attack of torchattacks; with `relative`, by steps of that share of the radius."""

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        eps = {"eps": radius} if radius < inf else {}
        step = {"alpha": relative * radius} if relative else {}
        return getattr(import_module("torchattacks"), attack)(model, **eps, **step, **arguments)(x, y)

    return _peer(
        "torchattacks", attack, fixed, words, call, **({"alpha / eps": relative} if relative else {})
    )


def auto_attack(module: str, attack: str, norm: str, **fixed: Any) -> Peer:

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        attack_class = getattr(import_module(f"autoattack.{module}"), attack)
        out = attack_class(
            model, norm=norm.capitalize(), eps=radius, device=str(x.device), verbose=False, **arguments
        ).perturb(x, y)
        return out[-1] if isinstance(out, tuple) else out

    return _peer("auto-attack", attack, fixed, "auto-attack", call, seeded=True)


def autoattack(norm: str) -> Peer:

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, version: str) -> Any:
        said = {"version": version, "device": str(x.device), "verbose": False, "seed": 0}
        whole = import_module("autoattack").AutoAttack(model, norm=norm.capitalize(), eps=radius, **said)
        return whole.run_standard_evaluation(x, y, bs=len(x))

    return _peer("auto-attack", "AutoAttack", {}, "auto-attack", call)


def sigma_zero(**fixed: Any) -> Peer:
    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        return import_module("sigma_zero_attack").sigma_zero(model, x, y, **arguments)

    return _peer("sigma-zero", "sigma_zero", fixed, "sigma-zero", call)


def sparse_rs(**fixed: Any) -> Peer:
    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, **arguments: Any) -> Any:
        attack_class = import_module("rs_attacks").RSAttack
        return attack_class(model, norm="L0", eps=int(radius), verbose=False, **arguments).perturb(x, y)[1]

    return _peer("sparse-rs", "RSAttack", fixed, "sparse-rs", call, seeded=True)


def segmentation(attack: str, *losses: str) -> Peer:
    """An attack on a class for each pixel: of a run for each loss the images with most wrong pixels."""

    def call(model: nn.Module, x: Tensor, y: Tensor, radius: float, n_iter: int) -> Tensor:
        run = getattr(import_module("attacker"), attack)
        best, right = x.clone(), torch.ones(len(x))
        for loss in losses:
            points = run(model, x, y, "Linf", radius, n_iter, loss, track_loss="ce-avg", use_rs=True)[0]
            with torch.no_grad():
                share = (model(points).argmax(1) == y).flatten(1).float().mean(1)
            best[share < right], right = points[share < right], torch.minimum(share, right)
        return best

    return _peer("robust-segmentation", attack, {}, "robust-segmentation", call, losses=" ".join(losses))


def best_of(peer: Peer, norm: str) -> Peer:
    """The nearest success of so many runs as the budget's `restarts` says, each with another seed."""

    def run(model: nn.Module, x: Tensor, y: Tensor, radius: float, restarts: int, **budget: Any) -> Tensor:
        best, nearest = x.clone(), torch.full((len(x),), inf, device=x.device)
        for turn in range(restarts):
            out = peer.run(model, x, y, radius, seed=turn, **budget)
            distance = (out - x).flatten(1).norm(P[norm], dim=1)
            with torch.no_grad():
                better = (model(out).argmax(1) != y) & (distance < nearest)
            best[better], nearest[better] = out[better], distance[better]
        return best

    return Peer(peer.package, peer.settings, run)
