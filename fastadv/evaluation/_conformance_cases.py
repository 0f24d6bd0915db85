"""What `conformance` compares: our attacks, and those of other packages with as many steps."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from fastadv import attacks
from fastadv.adapters import art, foolbox, secml, torchattacks
from fastadv.adapters.foreign import Foreign, imported
from fastadv.attacks import AttackResult

# as Python imports a package: where its attacks are, and how one is made of a class
PACKAGES: dict[str, tuple[str, Callable[..., Foreign]]] = {
    "torchattacks": ("torchattacks", torchattacks.wrap),
    "foolbox": ("foolbox.attacks", foolbox.wrap),
    "art": ("art.attacks.evasion", art.wrap),
    "secmlt": ("secmlt.adv.evasion", secml.wrap),
}
Given = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """An attack in one norm. `peers` have by package a class, perhaps with its module, and its arguments,
    which may hang on the radius.

    minimum: the nearest success counts, not a success in the ball. targeted: the class after the label is to
    be reached. slow: packages whose attack takes many times as long as the others.
    """

    name: str
    norm: str
    ours: Callable[[float], Callable[..., AttackResult]]
    peers: Mapping[str, Callable[[float], Given]]
    minimum: bool = False
    targeted: bool = False
    slow: tuple[str, ...] = ()

    def rivals(
        self, packages: tuple[str, ...], radius: float
    ) -> Iterator[tuple[str, Callable[[], Foreign], bool]]:
        """Yield the name of each attack of these packages, what imports it, and whether it is slow."""
        for package in packages:
            if package in self.peers:
                path, options = self.peers[package](radius)
                name = path.rpartition(".")[2]
                yield f"{package} {name}", partial(_made, package, path, options), package in self.slow


def _made(package: str, path: str, options: Mapping[str, Any]) -> Foreign:
    """Import a class of a package, and make an attack of it."""
    folder, wrap = PACKAGES[package]
    module, _, name = f"{folder}.{path}".rpartition(".")
    return wrap(getattr(imported(module), name), **options)


def installed() -> tuple[str, ...]:
    """Return the packages that are there."""
    return tuple(name for name in PACKAGES if find_spec(name) is not None)


def _given(name: str, **options: Any) -> Callable[[float], Given]:
    return lambda radius: (name, options)


def _steps() -> Iterator[Case]:
    """Yield steepest ascent, by steps of a fourth of the radius."""
    for norm, kind in (("linf", "Linf"), ("l2", "L2"), ("l1", "L1")):
        for ours, steps, name, other, alone in (
            ("fgsm", 0, "FastGradientAttack", "FGSM", "FastGradientMethod"),
            ("bim", 10, "BasicIterativeAttack", "BIM", ""),
            ("mim", 10, "MomentumIterativeFastGradientMethod", "MIFGSM", ""),
            ("pgd", 40, "ProjectedGradientDescentAttack", "PGD", "ProjectedGradientDescent"),
        ):
            count = {"steps": steps} if steps else {}
            relative = {"rel_stepsize": 0.25} if steps else {}
            peers = {"foolbox": _given(f"{kind}{name}", **count, **relative)}
            if norm == "linf" or (norm == "l2" and ours == "pgd"):
                peers["torchattacks"] = partial(
                    _alpha, name=other if norm == "linf" else "PGDL2", key="alpha" if steps else "", **count
                )
            if ours == "pgd":
                peers["secmlt"] = partial(
                    _alpha, name="pgd.PGD", key="step_size", num_steps=steps, random_start=True,
                    backend="native",
                )  # fmt: skip
            if alone and norm != "l1":  # its steps in L1 are of another kind
                more = {"max_iter": steps, "num_random_init": 1} if steps else {}
                peers["art"] = partial(_alpha, name=alone, key="eps_step" if steps else "", **more)
            yield Case(ours, norm, partial(_ascent, ours, **count), peers)


def _alpha(radius: float, *, name: str, key: str, **options: Any) -> Given:
    return name, {**options, **({key: 0.25 * radius} if key else {})}


def _ascent(name: str, radius: float, **options: Any) -> Callable[..., AttackResult]:
    size = {"step_size": 0.25 * radius} if options else {}
    return partial(getattr(attacks, name), loss="ce", **options, **size)


def _fixed(name: str, **options: Any) -> Callable[[float], Callable[..., AttackResult]]:
    return lambda radius: partial(getattr(attacks, name), **options)


def _variants() -> Iterator[Case]:
    """Yield PGD and APGD with restarts, and PGD with targets."""
    few = {"steps": 5, "restarts": 10}
    yield Case("pgd-restarts", "linf", partial(_ascent, "pgd", **few), {
        "art": partial(
            _alpha, name="ProjectedGradientDescent", key="eps_step", max_iter=5, num_random_init=10
        ),
    })  # fmt: skip
    yield Case("apgd-restarts", "linf", _fixed("apgd", loss="ce", **few), {
        "torchattacks": _given("APGD", steps=5, n_restarts=10),
        "art": _given("AutoProjectedGradientDescent", max_iter=5, nb_random_init=10),
    })  # fmt: skip
    yield Case("pgd-targeted", "linf", partial(_ascent, "pgd", steps=40), {
        "foolbox": _given("LinfProjectedGradientDescentAttack", steps=40, rel_stepsize=0.25),
        "torchattacks": partial(_alpha, name="PGD", key="alpha", steps=40),
        "art": partial(
            _alpha, name="ProjectedGradientDescent", key="eps_step", max_iter=40, num_random_init=1
        ),
    }, targeted=True)  # fmt: skip


def cases() -> tuple[Case, ...]:
    """Return all comparisons."""
    nearest = partial(Case, minimum=True)
    return (
        *_steps(),
        *_variants(),
        *(
            Case("apgd", norm, _fixed("apgd", steps=40, loss="ce"), {
                # the others return x where they break nothing, and so do not say how near they came
                "foolbox": _given(f"{kind}ProjectedGradientDescentAttack", steps=40, rel_stepsize=0.1),
                "torchattacks": _given("APGD", steps=40),
                "art": _given("AutoProjectedGradientDescent", max_iter=40, nb_random_init=1),
            })
            for norm, kind in (("linf", "Linf"), ("l2", "L2"))
        ),
        *(
            Case("square", norm, _fixed("square", queries=300), {
                "torchattacks": _given("Square", n_queries=300),
                "art": _given("SquareAttack", max_iter=300),
            }, slow=("art",))
            for norm in ("linf", "l2")
        ),
        nearest("ddn", "l2", _fixed("ddn", steps=100), {
            "foolbox": _given("DDNAttack", steps=100),
            "secmlt": _given("ddn.DDN", num_steps=100, eps_init=1.0),
        }),
        nearest("cw", "l2", _fixed("cw", steps=60, searches=5), {
            "foolbox": _given(
                "L2CarliniWagnerAttack", steps=60, binary_search_steps=5, initial_const=1, stepsize=0.1
            ),
            "torchattacks": _given("CW", steps=300, c=10, lr=0.1),
            "art": _given("CarliniL2Method", max_iter=60, binary_search_steps=5),
        }, slow=("art",)),
        nearest("ead", "l1", _fixed("ead", steps=60, searches=5), {
            "foolbox": _given("EADAttack", steps=60, binary_search_steps=5, decision_rule="L1"),
            "torchattacks": _given("EADL1", max_iterations=60, binary_search_steps=5),
            "art": _given("ElasticNet", max_iter=60, binary_search_steps=5, decision_rule="L1"),
        }, slow=("art",)),
        nearest("deepfool", "l2", _fixed("deepfool", steps=50, candidates=9), {
            "foolbox": _given("L2DeepFoolAttack", steps=50),
            "torchattacks": _given("DeepFool", steps=50),
            "art": _given("DeepFool", max_iter=50, epsilon=0.02),  # as far beyond the boundary as the others
        }),
        nearest("deepfool", "linf", _fixed("deepfool", steps=50, candidates=9), {
            "foolbox": _given("LinfDeepFoolAttack", steps=50),
        }),
        *(
            nearest("fmn", norm, _fixed("fmn", steps=100), {
                "foolbox": _given(f"{kind}FMNAttack", steps=100),
                "secmlt": _given("fmn.FMN", num_steps=100, step_size=1.0),
            })
            for norm, kind in (("linf", "LInf"), ("l2", "L2"), ("l1", "L1"), ("l0", "L0"))
        ),
    )  # fmt: skip
