"""What the attack suite is measured on: one case for an attack in one norm, with the peers that serve it.

A budget is given to ours and to the peers alike. `full` follows AttackBench or the papers, on 100 images;
`quick` is short enough for a test, on 25.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from torch import Tensor

import fastadv.attacks
from bench.suite.peers import (
    P,
    Peer,
    adv_lib,
    auto_attack,
    autoattack,
    best_of,
    foolbox,
    foolbox_decision,
    sigma_zero,
    sparse_rs,
    torchattacks,
)
from fastadv.attacks import AttackResult
from fastadv.threat import THREATS

Budget = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """An attack of the suite, its budget and its peers.

    `radius` is inf for a minimum-norm attack, which is measured by its median distance, and else that of the
    ball, measured by robust accuracy. `ours` makes our arguments of a budget where they are not the same.
    `images` and `few` are the most images of the two variants; with `few` 0 there is no short one.
    `models` are those of bench/suite/models.py whose images suit the radius; `stored` are those for which
    figures are stored.
    `chance` says that the outcome hangs on random draws, which are not the peers'.
    """

    name: str
    attack: str
    norm: str
    peers: tuple[Peer, ...]
    full: Budget
    quick: Budget
    radius: float = inf
    ours: Callable[[Budget], Budget] = dict
    images: int = 10_000
    few: int = 25
    models: tuple[str, ...] = ("cnn", "madry", "mlp", "robust", "robust_l2", "cifar")
    stored: tuple[str, ...] = ("cnn",)
    chance: bool = False

    def allowed(self, figures: Sequence[Mapping[str, Any]]) -> float:
        """The largest median or robust accuracy that is no worse than the best of these figures.

        A median may be 1 % off. Where chance decides, it may be 10 % off, and one image more may hold.
        """
        if self.radius < inf:
            best = min(figure["robust_accuracy"] for figure in figures)
            return best + (1.01 / figures[0]["images"] if self.chance else 0)
        return min(figure["median"] for figure in figures) * (1.1 if self.chance else 1.01)

    @property
    def exists(self) -> bool:
        """Whether fastadv has the attack."""
        return callable(getattr(fastadv.attacks, self.attack, None))

    def run(self, model: Any, x: Tensor, y: Tensor, variant: str) -> AttackResult:
        """Our attack, with the budget of the variant."""
        threat = THREATS[self.norm](self.radius)
        attack = getattr(fastadv.attacks, self.attack)
        result: AttackResult = attack(model, x, y, threat, **self.ours(self.budget(variant)))
        return result

    def budget(self, variant: str) -> Budget:
        return self.full if variant == "full" else self.quick

    def count(self, variant: str, samples: int = 100) -> int:
        """How many of so many images are used."""
        return min(samples, self.images if variant == "full" else self.few)


MNIST = ("cnn", "mlp")  # attacked at the same radii
# on a robust net gradients are sparse and small
BOTH = ("cnn", "madry")
LONG: dict[str, Any] = {"full": {"steps": 1000}, "quick": {"steps": 100}}
SEARCHED: dict[str, Any] = {
    "full": {"steps": 200, "searches": 5},
    "quick": {"steps": 100, "searches": 5},
    "few": 10,
}
HUNDRED: dict[str, Any] = {"full": {"steps": 100}, "quick": {"steps": 20}}
QUERIES: dict[str, Any] = {"full": {"queries": 5000}, "quick": {"queries": 500}}
FMN = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack", "l0": "L0FMNAttack"}
# AttackBench starts FMN with a step of 10 in Linf and of 1 elsewhere; in L2 and L1 that fails on many digits
FMN_STEP = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 1.0}
FMN_STEPS = {"linf": (10.0,), "l2": (1.0, 0.1), "l1": (1.0, 0.1), "l0": (1.0,)}
# radii at which the published CNN is neither untouched nor lost
RADII = {"linf": (0.05, 0.075, 0.1), "l2": (0.75, 1.0, 1.5), "l1": (3.0, 5.0, 8.0)}
LARGEST = {"linf": 0.3, "l2": 3.0, "l1": 30.0}
BLENDED = "LinearSearchBlendedUniformNoiseAttack"
# queries a sample that foolbox spends on so many steps of HopSkipJump on these images, counted
HOPSKIPJUMP_QUERIES = {16: 4782, 4: 730}
# the same for its boundary attack, without the long search for a start of images that have none
BOUNDARY_QUERIES = {1000: 1128, 200: 248}
# the fewest that it spends on a run of the pointwise attack
POINTWISE_QUERIES = {"l0": 1113, "l2": 1597}


def _fmn(norm: str) -> Case:
    peers = (
        *(adv_lib("fmn", norm=P[norm], α_init=step) for step in FMN_STEPS[norm]),
        foolbox(FMN[norm], "attacks.fmn", "fmn-authors", max_stepsize=FMN_STEP[norm]),
        foolbox(FMN[norm], max_stepsize=FMN_STEP[norm]),
    )
    return Case(f"fmn-{norm}", "fmn", norm, peers, **LONG, stored=BOTH)


def _pdpgd(norm: str) -> Case:
    operators: list[dict[str, Any]] = [{}, {"proximal_operator": 23}] if norm == "l0" else [{}]
    peers = tuple(adv_lib("pdpgd", "adv-lib (num_steps)", norm=P[norm], **operator) for operator in operators)
    return Case(f"pdpgd-{norm}", "pdpgd", norm, peers, **LONG)


def _fab(norm: str, targeted: bool) -> Case:
    def ours(budget: Budget) -> Budget:
        return {**budget, "targeted": targeted}

    peer = adv_lib("fab", "adv-lib (n_iter)", norm=P[norm], targeted_restarts=targeted)
    return Case(f"fab{'-t' if targeted else ''}-{norm}", "fab", norm, (peer,), **HUNDRED, ours=ours)


def _budget(attack: str, theirs: str, **fixed: Any) -> Case:
    """The simple attacks in Linf, without a random start."""
    arguments = {} if attack == "fgsm" else {"steps": 40, "step_size": 0.01}
    peers = (torchattacks(theirs, **fixed),)
    start = {"random_start": False} if attack == "pgd" else {}
    return Case(
        f"{attack}-linf-0.1", attack, "linf", peers, arguments, arguments, radius=0.1, models=MNIST,
        ours=lambda budget: {**budget, **start},
    )  # fmt: skip


def _apgd(norm: str, radius: float, loss: str, models: tuple[str, ...] = MNIST) -> Case:
    def ours(budget: Budget) -> Budget:
        return {**budget, "loss": loss}

    large = {"use_largereps": True} if norm == "l1" else {}
    larger = {"use_large_reps": norm == "l1", "norm": P[norm]}
    if loss == "dlr-targeted":
        peers: tuple[Peer, ...] = (
            auto_attack("autopgd_base", "APGDAttack_targeted", norm, **large),
            adv_lib("apgd_targeted", "adv-lib (n_iter)", "eps", **larger),
        )
    else:
        peers = (
            auto_attack("autopgd_base", "APGDAttack", norm, loss=loss, **large),
            adv_lib("apgd", "adv-lib (n_iter)", "eps", loss_function=loss, **larger),
        )
        if norm != "l1":
            peers += (torchattacks("APGD", norm=norm.capitalize(), loss=loss),)
    few = 25 if radius == RADII[norm][1] or "madry" in models else 0
    stored = tuple(name for name in BOTH if name in models)
    name = f"apgd-{loss}-{norm}-{radius:g}"
    # in L1 the random start decides about two images of a hundred, with every package
    return Case(name, "apgd", norm, peers, **HUNDRED, radius=radius, ours=ours, few=few,
                models=models, stored=stored, chance=norm == "l1")  # fmt: skip


def _search(norm: str, targeted: bool) -> Case:
    def ours(budget: Budget) -> Budget:
        loss = "dlr-targeted" if targeted else "dlr"
        return {
            "searches": budget["searches"],
            "attack": partial(fastadv.attacks.apgd, steps=budget["steps"], loss=loss),
        }

    peer = adv_lib(
        "minimal_apgd", "adv-lib (n_iter)", norm=P[norm], max_eps=LARGEST[norm], use_large_reps=norm == "l1",
        **({"targeted_version": True, "num_targets": 5} if targeted else {}),
    )  # fmt: skip
    name = f"minimum_radius-apgd{'-t' if targeted else ''}-{norm}"
    steps = 20 if targeted else 98
    return Case(name, "minimum_radius", norm, (peer,), {"steps": steps, "searches": 10},
                {"steps": 20, "searches": 5}, ours=ours)  # fmt: skip


def _square(norm: str, radius: float) -> Case:
    peers = (
        auto_attack("square", "SquareAttack", norm, resc_schedule=False),
        torchattacks("Square", norm=norm.capitalize(), resc_schedule=False),
    )
    return Case(
        f"square-{norm}-{radius:g}",
        "square",
        norm,
        peers,
        **QUERIES,
        radius=radius,
        chance=True,
        models=MNIST,
    )


def _autoattack(norm: str, radius: float, models: tuple[str, ...] = MNIST, version: str = "standard") -> Case:
    """`version` is ours; the authors' is always the standard one."""
    quick = "-quick" if version == "quick" else ""
    return Case(
        f"autoattack{quick}-{norm}-{radius:g}", "autoattack", norm, (autoattack(norm),),
        {"version": "standard"}, {"version": "standard"}, radius=radius, models=models,
        ours=lambda budget: {"version": version}, few=10 if "cnn" in models else 0,
    )  # fmt: skip


def _pointwise(norm: str) -> Case:
    once = foolbox_decision("PointwiseAttack", "SaltAndPepperNoiseAttack", l2_binary_search=norm == "l2")
    return Case(f"pointwise-{norm}", "pointwise", norm, (best_of(once, norm),),
                {"restarts": 10}, {"restarts": 1},
                ours=lambda budget: {**budget, "queries": POINTWISE_QUERIES[norm]}, images=20, few=10,
                chance=True)  # fmt: skip


CASES: tuple[Case, ...] = (
    _budget("fgsm", "FGSM"), _budget("bim", "BIM"), _budget("mim", "MIFGSM", decay=1.0),
    _budget("pgd", "PGD", random_start=False),
    Case("deepfool-l2", "deepfool", "l2",
         (adv_lib("df", norm=P["l2"]), foolbox("L2DeepFoolAttack"), torchattacks("DeepFool")),
         {"steps": 50}, {"steps": 50}),
    Case("deepfool-linf", "deepfool", "linf",
         (adv_lib("df", norm=P["linf"]), foolbox("LinfDeepFoolAttack")), {"steps": 50}, {"steps": 50},
         stored=BOTH),
    Case("ddn-l2", "ddn", "l2",
         (adv_lib("ddn", levels=None), adv_lib("ddn", levels=256), foolbox("DDNAttack")), **LONG,
         stored=BOTH),
    *(_fmn(norm) for norm in FMN),
    Case("cw-l2", "cw", "l2",
         (adv_lib("carlini_wagner_l2", "adv-lib (max_iterations)"), foolbox("L2CarliniWagnerAttack")),
         **SEARCHED),
    Case("cw-linf", "cw", "linf", (adv_lib("carlini_wagner_linf", "adv-lib (max_iterations)"),),
         {"steps": 100}, {"steps": 20}, images=25, few=5),
    Case("ead-l1", "ead", "l1",
         (foolbox("EADAttack", decision_rule="L1"), foolbox("EADAttack")), **SEARCHED),
    Case("sigma_zero-l0", "sigma_zero", "l0",
         (sigma_zero(), adv_lib("sigma_zero", "adv-lib (num_steps)")), **LONG),
    *(_pdpgd(norm) for norm in FMN),
    Case("pdgd-l2", "pdgd", "l2", (adv_lib("pdgd", "adv-lib (num_steps)"),), **LONG),
    *(_fab(norm, targeted) for targeted in (False, True) for norm in RADII),
    *(_apgd(norm, radius, loss) for norm, radii in RADII.items() for radius in radii
      for loss in ("ce", "dlr", "dlr-targeted")),
    # the radius of its training; at 0.32 the random start decides about three images of 25
    *(_apgd("linf", 0.3, loss, models=("madry",)) for loss in ("ce", "dlr")),
    *(_search(norm, targeted) for targeted in (False, True) for norm in RADII),
    _square("linf", 0.1), _square("l2", 1.0), _square("l2", 2.0),
    *(Case(f"sparse_rs-l0-{radius}", "sparse_rs", "l0", (sparse_rs(),), **QUERIES, radius=radius,
           chance=True, models=MNIST)
      for radius in (5, 10)),
    _autoattack("linf", 0.1), _autoattack("l2", 1.0), _autoattack("l1", 5.0),
    *(_autoattack(norm, radius, models, version)
      for version in ("standard", "quick")
      for norm, radius, models in (("linf", 0.2, ("robust",)), ("l2", 1.5, ("robust_l2",)),
                                   ("linf", 1 / 255, ("cifar",)), ("l2", 0.25, ("cifar",)))),
    Case("boundary-l2", "boundary", "l2", (foolbox_decision("BoundaryAttack", BLENDED),),
         {"steps": 1000}, {"steps": 200},
         ours=lambda budget: {"queries": BOUNDARY_QUERIES[budget["steps"]]}, few=10, chance=True),
    Case("hopskipjump-l2", "hopskipjump", "l2", (foolbox_decision("HopSkipJumpAttack", BLENDED),),
         {"steps": 16}, {"steps": 4},
         ours=lambda budget: {"queries": HOPSKIPJUMP_QUERIES[budget["steps"]]}, images=20, few=10,
         chance=True),
    _pointwise("l0"), _pointwise("l2"),
    Case("contrast-l2", "contrast", "l2",
         (foolbox("BinarySearchContrastReductionAttack"), foolbox("LinearSearchContrastReductionAttack")),
         {}, {}),
    Case("salt_and_pepper-l0", "salt_and_pepper", "l0", (foolbox("SaltAndPepperNoiseAttack"),), **LONG,
         ours=lambda budget: {"levels": 100, "repetitions": budget["steps"] // 100}, chance=True),
)  # fmt: skip
