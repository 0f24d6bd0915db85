"""What every attack is compared with, in each norm: those that were behind at some time come first."""

import itertools
from collections.abc import Iterator
from math import inf
from typing import Any

import fastadv.attacks
from tests.parity.case import Case, as_many, queries, searched, with_more
from tests.parity.models import DENSE, NETS, Radii
from tests.parity.peers import (
    P,
    Peer,
    adv_lib,
    auto_attack,
    autoattack,
    best_of,
    foolbox,
    foolbox_budget,
    foolbox_decision,
    segmentation,
    sigma_zero,
    sparse_rs,
    torchattacks,
)

LONG: dict[str, Any] = {"full": {"steps": 100}, "quick": {"steps": 100}}
LONGEST: dict[str, Any] = {"full": {"steps": 300}, "quick": {"steps": 100}}
SEARCHED: dict[str, Any] = {
    "full": {"steps": 100, "searches": 5},
    "quick": {"steps": 100, "searches": 5},
    "few": 10,
    "ours": as_many,
}
# with three, two equal attacks differ by up to two images of a hundred, and in L1, where the start decides
# more, even with twelve by more than one; those that go through several classes draw for each
SEEDS, SEEDS_OF_CLASSES = 12, 4
SEEDS_L1, SEEDS_OF_CLASSES_L1, FEW_SEEDS_L1 = 48, 8, 4
HUNDRED: dict[str, Any] = {"full": {"steps": 100}, "quick": {"steps": 20}, "seeds": SEEDS}
QUERIES: dict[str, Any] = {"full": {"queries": 1000}, "quick": {"queries": 500}, "seeds": SEEDS}
# AttackBench starts FMN with a step of 10 in Linf and of 1 elsewhere; in L2 and L1 that fails on many digits
FMN_STEPS = {"l1": (1.0, 0.1), "l0": (1.0,), "l2": (1.0, 0.1), "linf": (10.0,)}
# the largest radius that a search over it begins with
LARGEST = {"linf": 0.5, "l2": 5.0, "l1": 50.0}
BLENDED = "LinearSearchBlendedUniformNoiseAttack"
# factors of the radius of attacks by gradients: noise needs larger balls
NOISE = {"l2": 6.0, "linf": 2.0}


def _apgd(norm: str, radius: float, loss: str) -> Case:
    large = {"use_largereps": True} if norm == "l1" else {}
    larger = {"use_large_reps": norm == "l1", "norm": P[norm]}
    if loss == "dlr-targeted":
        peers: tuple[Peer, ...] = (
            auto_attack("autopgd_base", "APGDAttack_targeted", norm, **large),
            adv_lib("apgd_targeted", "adv-lib (n_iter)", "eps", **larger),
        )
        seeds, few = (SEEDS_OF_CLASSES_L1 if norm == "l1" else SEEDS_OF_CLASSES), 1
    else:
        peers = (
            auto_attack("autopgd_base", "APGDAttack", norm, loss=loss, **large),
            adv_lib("apgd", "adv-lib (n_iter)", "eps", loss_function=loss, **larger),
        )
        seeds, few = (SEEDS_L1, FEW_SEEDS_L1) if norm == "l1" else (SEEDS, 1)
    return Case("apgd", norm, peers, **(HUNDRED | {"seeds": seeds}), few_seeds=few, radius=radius, label=loss,
                ours=with_more(loss=loss), chance=norm == "l1")  # fmt: skip


def _autoattack(norm: str, radius: float, version: str = "standard") -> Case:
    """`version` is ours; the authors' is always the standard one."""
    standard = {"version": "standard"}
    return Case("autoattack", norm, (autoattack(norm),), standard, standard, radius=radius, few=10,
                label="" if version == "standard" else version, ours=with_more(version=version))  # fmt: skip


def _fmn(norm: str) -> Case:
    peers = tuple(adv_lib("fmn", norm=P[norm], α_init=step) for step in FMN_STEPS[norm])
    return Case("fmn", norm, peers, **LONG)


def _pdpgd(norm: str) -> Case:
    operators: list[dict[str, Any]] = [{}, {"proximal_operator": 23}] if norm == "l0" else [{}]
    peers = tuple(adv_lib("pdpgd", "adv-lib (num_steps)", norm=P[norm], **operator) for operator in operators)
    return Case("pdpgd", norm, peers, **LONGEST)


def _fab(norm: str, targeted: bool) -> Case:
    peers = (adv_lib("fab", "adv-lib (n_iter)", norm=P[norm], targeted_restarts=targeted),)
    if not targeted:  # the authors' tries further classes only where the first led out of the ball
        peers += (auto_attack("fab_pt", "FABAttack_PT", norm),)
    budget = {"steps": 20 if targeted else 50}
    return Case("fab", norm, peers, budget, {"steps": 20}, label="t" if targeted else "",
                ours=with_more(targeted=targeted))  # fmt: skip


def _search(norm: str, targeted: bool) -> Case:
    more = {"targeted_version": True, "num_targets": 5} if targeted else {}
    large = {"max_eps": LARGEST[norm], "use_large_reps": norm == "l1"}
    peer = adv_lib("minimal_apgd", "adv-lib (n_iter)", norm=P[norm], **large, **more)
    full, quick = {"steps": 10 if targeted else 40, "searches": 5}, {"steps": 20, "searches": 5}
    return Case("minimum_radius", norm, (peer,), full, quick, label="apgd-t" if targeted else "apgd",
                ours=searched("dlr-targeted", classes=5) if targeted else searched("dlr"))  # fmt: skip


def _square(norm: str, radius: float) -> Case:
    peer = auto_attack("square", "SquareAttack", norm, resc_schedule=False)
    return Case("square", norm, (peer,), **QUERIES, radius=radius, chance=True)


def _steps(norm: str, radius: float) -> Iterator[Case]:
    """FGSM, BIM, MIM and PGD with as many steps, ours as long as the longest of the peers' defaults."""
    name = norm.capitalize()
    once = (foolbox_budget(f"{name}FastGradientAttack"),)
    bim = (foolbox_budget(f"{name}BasicIterativeAttack"),)
    mim = (foolbox_budget(f"{name}MomentumIterativeFastGradientMethod"),)
    pgd = (foolbox_budget(f"{name}ProjectedGradientDescentAttack"),)
    if norm == "linf":  # its steps are 2/255 in a ball of 8/255
        once += (torchattacks("FGSM"),)
        bim += (torchattacks("BIM", relative=0.25),)
        mim += (torchattacks("MIFGSM", relative=0.25, decay=1.0),)
        pgd += (torchattacks("PGD", relative=0.25),)
    if norm == "l2":
        pgd += (torchattacks("PGDL2", relative=0.2),)
    yield Case("fgsm", norm, once, {}, {}, radius=radius, ours=with_more(loss="ce"))
    alike = with_more(step_size=(0.25 if norm == "linf" else 0.2) * radius, loss="ce")
    for attack, peers, steps in (("bim", bim, 10), ("mim", mim, 10)):
        yield Case(attack, norm, peers, {"steps": steps}, {"steps": steps}, radius=radius, ours=alike)
    yield Case("pgd", norm, pgd, {"steps": 40}, {"steps": 40}, radius=radius, chance=True, seeds=SEEDS,
               ours=with_more(loss="ce") if norm == "l1" else alike)  # fmt: skip


def _noise(attack: str, norm: str, radius: float) -> Case:
    kind = "Gaussian" if attack == "gaussian_noise" else "Uniform"
    name = f"{norm.capitalize()}RepeatedAdditive{kind}NoiseAttack"
    names = (name, name.replace("Repeated", "ClippingAwareRepeated"))[: 2 if norm == "l2" else 1]
    return Case(attack, norm, tuple(map(foolbox_budget, names)), **QUERIES, radius=radius * NOISE[norm],
                ours=lambda budget, _: {"levels": 100, "repetitions": budget["queries"] // 100},
                chance=True)  # fmt: skip


def _estimated(attack: str, norm: str, radius: float) -> Case:
    """NES and SPSA: by gradients that are estimated from 100 scores each."""
    name = f"{norm.capitalize()}ProjectedGradientDescentAttack"
    peers = (foolbox_budget(name, estimated=100, rel_stepsize=0.1),)
    if attack == "spsa":
        peers += (torchattacks("SPSA", "torchattacks (nb_iter)", nb_sample=100, max_batch_size=100),)
    return Case(attack, norm, peers, {"steps": 10}, {"steps": 5}, radius=radius, ours=queries, few=10,
                chance=True, seeds=SEEDS)  # fmt: skip


def _pointwise(norm: str) -> Case:
    once = foolbox_decision("PointwiseAttack", "SaltAndPepperNoiseAttack", l2_binary_search=norm == "l2")
    return Case("pointwise", norm, (best_of(once, norm),), {"restarts": 1}, {"restarts": 1},
                ours=queries, few=10, chance=True)  # fmt: skip


def _decisions() -> Iterator[Case]:
    yield Case("boundary", "l2", (foolbox_decision("BoundaryAttack", BLENDED),),
               {"steps": 1000}, {"steps": 200}, ours=queries, few=10, chance=True)  # fmt: skip
    for norm in ("l2", "linf"):
        yield Case("hopskipjump", norm, (foolbox_decision("HopSkipJumpAttack", BLENDED, constraint=norm),),
                   {"steps": 8}, {"steps": 4}, ours=queries, few=10, chance=True)  # fmt: skip
    yield from map(_pointwise, ("l0", "l2"))


def cases_at(radii: Radii) -> tuple[Case, ...]:
    """All comparisons; attacks that need a radius get that of their norm."""

    def minimum() -> Iterator[Case]:
        yield from map(_fmn, FMN_STEPS)
        yield Case("ddn", "l2", (adv_lib("ddn", levels=None),), **LONG)
        # two versions of its authors, a step of one schedule apart, differ by up to five images of a hundred
        yield Case("sigma_zero", "l0", (sigma_zero(), adv_lib("sigma_zero", "adv-lib (num_steps)")),
                   **LONGEST, chance=True)  # fmt: skip
        yield from map(_pdpgd, FMN_STEPS)
        yield from (_fab(norm, targeted) for targeted in (False, True) for norm in LARGEST)
        yield Case("cw", "l2", (adv_lib("carlini_wagner_l2", "adv-lib (max_iterations)"),
                                foolbox("L2CarliniWagnerAttack")), **SEARCHED)  # fmt: skip
        yield Case("cw", "linf", (adv_lib("carlini_wagner_linf", "adv-lib (max_iterations)"),),
                   {"steps": 20}, {"steps": 20}, ours=as_many, few=5)  # fmt: skip
        yield Case("ead", "l1", (foolbox("EADAttack", decision_rule="L1", abort_early=False),
                                 torchattacks("EADL1", "torchattacks (max_iterations)", abort_early=False)),
                   **SEARCHED)  # fmt: skip
        yield Case("pdgd", "l2", (adv_lib("pdgd", "adv-lib (num_steps)"),), **LONG)
        yield Case("deepfool", "l2", (adv_lib("df", norm=P["l2"]), foolbox("L2DeepFoolAttack"),
                                      torchattacks("DeepFool")), {"steps": 50}, {"steps": 50})  # fmt: skip
        yield Case("deepfool", "linf", (adv_lib("df", norm=P["linf"]), foolbox("LinfDeepFoolAttack")),
                   {"steps": 50}, {"steps": 50})  # fmt: skip
        yield from (_search(norm, targeted) for targeted in (False, True) for norm in LARGEST)

    def every() -> Iterator[Case]:
        by_norm = {norm: radii[norm] for norm in ("l1", "l2", "linf")}
        yield from (_apgd("l1", radii["l1"], loss) for loss in ("ce", "dlr", "dlr-targeted"))
        yield from itertools.islice(minimum(), 10)
        yield from (_autoattack(norm, radius) for norm, radius in by_norm.items())
        yield from itertools.islice(minimum(), 10, None)
        yield from (_square(norm, radius) for norm, radius in by_norm.items())
        yield Case("sparse_rs", "l0", (sparse_rs(),), **QUERIES, radius=radii["l0"], chance=True)
        yield from (_autoattack(norm, radius, "quick") for norm, radius in by_norm.items())
        yield from (_apgd(norm, radii[norm], loss) for norm in ("l2", "linf")
                    for loss in ("ce", "dlr", "dlr-targeted"))  # fmt: skip
        yield from (case for norm, radius in by_norm.items() for case in _steps(norm, radius))
        yield from _decisions()
        yield _estimated("spsa", "linf", radii["linf"])
        # the budget of adv-lib's is rounds; both end by themselves
        yield Case("superdeepfool", "l2", (adv_lib("sdf"),), **LONG)
        yield Case("salt_and_pepper", "l0", (foolbox("SaltAndPepperNoiseAttack"),), **LONGEST, chance=True,
                   ours=lambda budget, _: {"levels": 100, "repetitions": budget["steps"] // 100})  # fmt: skip
        yield _noise("gaussian_noise", "l2", radii["l2"])
        yield from (_noise("uniform_noise", norm, radii[norm]) for norm in NOISE)
        yield from (_estimated("nes", norm, radii[norm]) for norm in NOISE)

    return tuple(every())


def dense(radius: float) -> tuple[Case, ...]:
    """The attacks on a class for each pixel, with a hundred steps for each of four losses, or for one."""
    losses = "mask-ce-avg", "segpgd-loss", "js-avg", "mask-norm-corrlog-avg"
    more: dict[str, Any] = {"full": {"steps": 100}, "quick": {"steps": 20}, "radius": radius}
    share = with_more(criterion=fastadv.attacks.Share(1.0))
    return (
        Case("sea", "linf", (segmentation("apgd_largereps", *losses),), ours=share, **more),
        Case("segpgd", "linf", (segmentation("apgd_restarts", "segpgd-loss"),), ours=share, **more),
    )


def cases_on(net: str) -> tuple[Case, ...]:
    """The cases of a net; one of pixels has its own."""
    return dense(NETS[net].radii["linf"]) if net in DENSE else cases_at(NETS[net].radii)


# the nets of the tests: on an undefended one every attack finds all that there is. The attacks that fare
# differently on these are held on each of them, the others on one each, in turn
TESTED = ("linf", "l2", "saturated", "quantized")
TRIED = ("apgd-ce", "fmn", "ddn", "sigma_zero", "pdpgd")


def radii(case: Case, net: str) -> tuple[float, ...]:
    """Return the radius of a budget; for a minimum norm none, and that at which robust accuracy is taken."""
    return (case.radius,) if case.radius < inf else (inf, NETS[net].radii[case.norm])


def held(case: Case, net: str) -> bool:
    """Tell whether the tests hold the case on this net."""
    if net not in TESTED:
        return False
    names = [other.name for other in cases_on(net)]
    return case.name.startswith(TRIED) or names.index(case.name) % len(TESTED) == TESTED.index(net)


# attacks and norms with which no package above can be compared, and why
ALONE = {
    ("transfer", None): "it is what other attacks find on another model",
    ("lbfgs", "l2"): "the packages no longer have it",
    ("fgsm", "l0"): "none has it in L0",
    ("bim", "l0"): "none has it in L0",
    ("mim", "l0"): "none has it in L0",
    ("pgd", "l0"): "none has it in L0",
    ("minimum_radius", "l0"): "none has it in L0",
    ("minimum_norm", None): "its attacks are compared one by one",
}
