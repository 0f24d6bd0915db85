"""AutoAttack: a row of attacks, each on the samples that are left (Croce & Hein 2020)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_seed
from fastadv.attacks import core
from fastadv.attacks.apgd import apgd
from fastadv.attacks.core.run import prepare
from fastadv.attacks.core.trial import Trial
from fastadv.attacks.fab import fab
from fastadv.attacks.methods.flags import FLAGS, Cost, square_stands_out
from fastadv.attacks.methods.symptoms import symptoms
from fastadv.attacks.pdpgd import pdpgd
from fastadv.attacks.square import square
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import Threat

Version = Literal["standard", "plus", "rand", "quick"]
VERSIONS = ("standard", "plus", "rand", "quick")
EOT = 20  # passes of "rand"
SEEN = 32  # samples whose symptoms are looked for
FOUND = 0.003  # of the samples; where the last component of "quick" breaks more, others would as well
ATTACKS: dict[str, core.InnerAttack] = {"apgd": apgd, "fab": fab, "pdpgd": pdpgd, "square": square}
UNSEEDED = ("pdpgd",)


@dataclass(frozen=True)
class Component:
    """One attack of a version: its name in reports, its function, and its arguments."""

    name: str
    attack: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class AutoAttackResult(core.AttackResult):
    """The outcome of AutoAttack; `flags` begin with the names of the five warnings, where they apply.

    Attributes:
        by: for each sample, the name of the component that broke it; "" where none did, or x was wrong
            already.
        costs: what each component did that had samples left, in order. `forwards` of the result also counts
            the verdicts and the look for symptoms.
        notes: what the version did and left out, in words.
    """

    by: tuple[str, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@core.takes_common(norms=("linf", "l2", "l1"), finite=True)
def autoattack(
    model: core.Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    version: Version = "standard",
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
    **common: Unpack[core.Common],
) -> AutoAttackResult:
    """Return robust accuracy without parameters: a row of attacks, each on the samples that are left.

    "standard": APGD on the cross-entropy, targeted APGD on DLR and targeted FAB for nine classes (100 steps
    each), and Square with 5,000 queries; in L1, APGD with five restarts and five classes. "plus": APGD on
    both losses and FAB, to the boundaries of all classes, with five restarts each, Square, and the targeted
    attacks. "rand": APGD on both losses, each gradient the mean of 20 passes. These are the versions of Croce
    & Hein 2020 and, for L1, 2021. Where "rand" differs: the authors count a sample as broken once a single
    pass after any attack is wrong; here one more verdict on the whole batch decides, which a randomized model
    passes more often, so that its robust accuracy comes out higher than by their count. "quick": APGD on
    the margin and on DLR for five classes, 50 steps each, 200 queries of Square, and at last an attack of
    another kind: APGD on the cross-entropy (100 steps) in Linf, PDPGD (300 steps) in L2 and L1. Where that
    one breaks more than 0.3% of the samples of this call, or a flag is raised, it goes on with "standard" for
    those that are left, and a note says so.

    Args:
        version: "standard", "plus", "rand" or "quick".
        on_progress: called as (component, samples left) before each component.
        eot: an integer >= 1; "rand" has 20 unless another is given.

    Where targets are given, all attacks go for these alone; where a criterion is, its margin takes the place
    of DLR. A criterion whose margin leads to no class, such as OutsideTopK, has restarts of one attack in the
    place of the classes. A component that cannot run, such as one by gradients on a model without them, is
    left out; a note says so.
    """
    check_seed(seed)
    if version not in VERSIONS:
        raise InputError(f"version: expected one of {', '.join(VERSIONS)}, got {version!r}")
    if version == "rand":
        common = {"eot": EOT, **common}
    with torch.inference_mode(False), torch.no_grad():
        frozen, given = prepare(model, x, y, threat, **common)
        run = _Run(Trial(frozen, given), seed, on_progress)
        run.look(randomized=version != "rand")
        components = _components(version, run)
        for component in components:
            run.component(component)
        if version == "quick":
            reasons = run.reasons(components[-1].name)
            for component in _components("standard", run) if reasons else ():
                run.component(replace(component, name=f"standard {component.name}"))
            why = f"went on with standard for what was left, for {reasons}"
            run.note(f"quick: {why if reasons else 'no reason to go on with standard'}")
        return run.finish()


def _components(version: str, run: "_Run") -> list[Component]:
    """Return the components of a version, for the norm, classes, targets and criterion of a run."""
    problem = run.trial.problem
    sparse, free = problem.threat.norm == "l1", problem.targets is None and _aims(run)
    classes = run.trial.clean.shape[1] - 1
    dlr = "dlr" if run.plain else "margin"
    name = f"apgd-{dlr}"

    def ascent(name: str, loss: str, steps: int = 100, **arguments: Any) -> Component:
        return Component(name, "apgd", {"loss": loss, "steps": steps, **arguments})

    def targeted(count: int, steps: int = 100) -> list[Component]:
        count = min(count, classes)
        if free:
            return [ascent("apgd-t", f"{dlr}-targeted", steps, classes=count)]
        return [] if problem.targets is not None else [ascent(name, dlr, steps, restarts=count)]

    def boundary(name: str, **arguments: Any) -> Component:
        return Component(name, "fab", {"steps": 100, **arguments})

    def search(queries: int) -> Component:
        return Component("square", "square", {"queries": queries})

    if version == "rand":
        return [ascent("apgd-ce", "ce"), ascent(name, dlr)]
    if version == "quick":
        twice = name == "apgd-margin" and not free
        first = ascent("apgd-ce", "ce", 50) if twice else ascent("apgd-margin", "margin", 50)
        last = ascent("last apgd-ce", "ce")
        if problem.threat.norm != "linf":
            last = Component("last pdpgd", "pdpgd", {"steps": 300})
        return [first, *(targeted(5, 50) or [ascent(name, dlr, 50)]), search(200), last]
    if version == "plus":
        both = [ascent("apgd-ce", "ce", restarts=5), ascent(name, dlr, restarts=5)]
        both += [boundary("fab", targeted=False, classes=None, restarts=5), search(5000)]
        return [*both, *targeted(9), boundary("fab-t", targeted=True)] if free else both
    first = ascent("apgd-ce", "ce", restarts=5 if sparse else 1)
    rest = targeted(5 if sparse else 9) or [ascent(name, dlr)]
    return [first, *rest, boundary("fab-t" if free else "fab", targeted=free), search(5000)]


def _aims(run: "_Run") -> bool:
    """Return whether the criterion's losses can lead to a class; those of OutsideTopK do not differ."""
    clean, y, margin = run.trial.clean, run.trial.problem.y, run.trial.problem.criterion.margin
    return run.plain or not torch.equal(*(margin(clean, y, (y + i) % clean.shape[1]) for i in (1, 2)))


class _Run:
    """What is left of a batch, and what was found in it."""

    def __init__(self, trial: Trial, seed: int, on_progress: Callable[[str, int], None] | None) -> None:
        self.trial, self.seed, self.on_progress = trial, seed, on_progress
        problem = trial.problem
        self.left = trial.todo
        self.x_adv = problem.x.clone()
        self.by = [""] * len(problem.x)
        self.not_finite = torch.zeros_like(trial.already)
        # where no component met a gradient but zero; it means nothing until one computed any
        self.flat, self.gradients = ~(trial.already | trial.unusable), False
        self.costs: dict[str, Cost] = {}
        self.notes: tuple[str, ...] = ()
        self.warnings: dict[str, None] = {}
        self.flags: dict[str, None] = {}
        # the criterion is the plain one
        self.plain = problem.margin == "margin"

    def note(self, note: str) -> None:
        self.notes += (note,)

    def look(self, randomized: bool) -> None:
        """Look for symptoms of a model that attacks by gradients cannot judge."""
        if not len(self.left):
            return
        seen = symptoms(self.trial.frozen, self.trial.problem.x[self.left[:SEEN]])
        raised = {
            "randomized": seen.randomized and randomized,
            "probabilities": seen.probabilities,
            "zero_gradient": seen.zero_gradient > 0,
            "optimizes": seen.optimizes,
        }
        self.warnings |= {name: None for name, raises in raised.items() if raises}

    def reasons(self, last: str) -> str:
        """Why what is left needs other attacks, given the name of the last; "" where it does not."""
        if not len(self.left):
            return ""
        found = self.costs[last].broken if last in self.costs else 0
        raised = f"the flags {', '.join(self.warnings)}" if self.warnings else ""
        more = f"{found} that {last} still broke" if found > FOUND * len(self.by) else ""
        return " and ".join(filter(None, (raised, more)))

    def component(self, component: Component) -> None:
        """Run one attack on the samples that are left."""
        if not len(self.left):
            return
        problem = self.trial.problem.take(self.left)
        if self.on_progress is not None:
            self.on_progress(component.name, len(self.left))
        started = time.perf_counter()
        common: core.Common = {"targets": problem.targets, "ids": problem.ids, "mask": problem.mask}
        if not self.plain:
            common["criterion"] = problem.criterion
        arguments = dict(component.arguments)
        if component.attack not in UNSEEDED:
            arguments["seed"] = rng.derive(self.seed, f"autoattack {component.name}")
        if component.attack == "fab":
            arguments["restart_radius"] = problem.threat.radius
        try:
            out = ATTACKS[component.attack](
                self.trial.frozen, problem.x, problem.y, problem.threat, **arguments, **common
            )
        except NoGradientError:
            self.note(f"{component.name}: left out, because the model has no gradient")
            self.warnings["zero_gradient"] = None
            return
        broken = out.success
        self._take(component, out, broken)
        self.costs[component.name] = Cost(
            len(broken), int(broken.sum()), out.forwards, out.backwards, time.perf_counter() - started
        )
        if square_stands_out(self.costs, len(self.by)):
            self.warnings["square"] = None

    def _take(self, component: Component, out: core.AttackResult, broken: Tensor) -> None:
        """Keep what a component found; the strongest point of the first stands for samples that hold."""
        for index in self.left[broken].tolist():
            self.by[index] = component.name
        kept = broken if self.costs else torch.ones_like(broken)
        self.x_adv[self.left[kept]] = out.x_adv[kept]
        self.not_finite[self.left] |= out.status == core.Status.FAILED
        if out.backwards:
            self.flat[self.left] &= out.zero_gradient
            self.gradients = True
            if bool(out.zero_gradient.any()):
                self.warnings["zero_gradient"] = None
        self.flags |= dict.fromkeys(out.flags)
        self.left = self.left[~broken]

    def finish(self) -> AutoAttackResult:
        """Return the result, by one more verdict on the whole batch."""
        trial, problem = self.trial, self.trial.problem
        logits = trial.verdict(self.x_adv)
        claimed = torch.tensor([bool(name) for name in self.by], dtype=torch.bool, device=problem.x.device)
        doubtful = (claimed & ~problem.met(logits)).nonzero().squeeze(1).tolist()
        for index in doubtful:
            self._confirm(index)
        if doubtful:
            logits = trial.verdict(self.x_adv)
        if trial.denied(claimed | trial.already, logits):
            trial.report_two_answers()
        out = trial.finish(
            self.x_adv,
            logits,
            problem.margin,
            not_finite=self.not_finite,
            zero_gradient=self.flat & self.gradients,
        )
        words = [f"{name}: {FLAGS[name]}" for name in FLAGS if name in self.warnings]
        values = {value.name: getattr(out, value.name) for value in fields(core.AttackResult)}
        values["flags"] = tuple(dict.fromkeys([*words, *self.flags, *out.flags]))
        by = tuple(
            name if broken else ""
            for name, broken in zip(self.by, (out.status == core.Status.BROKEN).tolist(), strict=True)
        )
        return AutoAttackResult(**values, by=by, costs=self.costs, notes=self.notes)

    def _confirm(self, index: int) -> None:
        """Move a success that the rounding of another batch denies further from the boundary."""
        problem = self.trial.problem.take(torch.tensor([index], device=self.x_adv.device))
        criterion = None if self.plain else problem.criterion
        out = apgd(
            self.trial.frozen, problem.x, problem.y, problem.threat, loss="margin", stop_early=False,
            targets=problem.targets, ids=problem.ids, mask=problem.mask, criterion=criterion,
        )  # fmt: skip
        if bool(out.success):
            self.x_adv[index] = out.x_adv[0]
