"""The indicators: what the results say already, and short looks at some of the samples."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count, check_seed, check_share, eager
from fastadv.attacks.core.checks import check_finite_radius
from fastadv.attacks.core.common import Classifier
from fastadv.attacks.core.criterion import WRONG, Unless, decides_by_class
from fastadv.attacks.core.result import AttackResult, classified
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import clamped_input, probes
from fastadv.attacks.masking.evidence import Evidence, any_of, broken_by, by_gradients_alone
from fastadv.attacks.masking.flags import SIGNS, at_least, at_least_alone
from fastadv.attacks.masking.masked_modules import masked_within, stands_in
from fastadv.attacks.masking.symptoms import SEEN, symptoms
from fastadv.attacks.masking.verdict import BLACK_BOX, STAND_IN, UNSEARCHED, Indicators
from fastadv.attacks.pgd import pgd
from fastadv.attacks.special.bounded_outputs import SOFT_LOGITS, squashed
from fastadv.engine import Prepared
from fastadv.engine.module import as_module
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import THREATS, Threat

SAMPLES = 200  # at most, that are looked at
LEAST = clamped_input.SAMPLES  # fewer say nothing
FEWER = f"fewer than {LEAST} samples that the model gets right"
SHARE = 0.05  # of the passes of the attacks, which the looks may cost, unless they are at LEAST samples
BY_LEFT = ("incomplete", "square")  # what attacks left says them, be it for a weak loss
ABSTAINS = (
    "the model abstains by a step, across which no gradient leads: put the threshold into a module, score to "
    "lead, and give fa.models.bpda(model, {its name: 'identity'}); or attack a twin that abstains smoothly"
)
ASCENTS = ("pgd", "apgd", "autoattack")  # of many steps, which break no fewer than FGSM
OF_CLASSES = ("probabilities", "bounded_outputs", "unconstrained")


@eager
def indicators(
    model: Classifier, x: Tensor, y: Tensor, threat: Threat, *,
    results: Mapping[str, AttackResult] | None = None, limit: int = SAMPLES, share: float | None = SHARE,
    seed: int = 0, ids: Tensor | None = None,
) -> Indicators:  # fmt: skip
    """Look for signs that a model masks its gradients, so that attacks overstate its robustness.

    The signs are the warnings of AutoAttack (`symptoms`, and Square that finds more than gradients), a
    gradient that is not that of the logits (`masked_modules`), an attack without a radius that leaves
    samples, and a loss that still rises at the end. A share counts by the lower end of its 95% interval.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is not changed.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: at whose radius the samples are probed; finite, a number or [B].
        results: of attacks on exactly these samples, by name. None runs PGD with 40 steps. What they broke
            within this threat counts. Results in another norm or box, and those with targets, a criterion or
            a mask, do not count.
        limit: the most samples to probe, drawn by the seed among those that the model gets right.
        share: of the passes of the attacks that the probes may take at most; eight samples are probed
            whatever that costs. None sets no bound.
        seed: of all random numbers.
        ids: int [B], sample numbers (default 0 to B - 1).

    Returns:
        The `Indicators` with their values, what is flagged, and advice.

    Raises:
        InputError: an argument is wrong; the message names it.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> signs = fa.attacks.indicators(model, x, y, fa.Linf(0.1))
        >>> signs.masked
        {}

    Source:
        Pintor et al. 2022, "Indicators of Attack Failure" (arXiv 2106.09947); Athalye et al. 2018 (arXiv
        1802.00420); Croce and Hein 2020 (arXiv 2003.01690).
    """
    check_seed(seed)
    check_count("limit", limit, 1)
    if share is not None:
        check_share("share", share, one=True)
    with torch.inference_mode(False), torch.no_grad():
        problem = Task.of(model, x, y, threat, ids=ids)
        check_finite_radius(threat)
    classifier = problem.classifier
    with torch.inference_mode(False), torch.no_grad(), classifier.in_eval():
        if results is None:
            try:
                out = pgd.on(problem, steps=probes.LONG_STEPS, seed=seed)
                results = {"pgd": out}
            except NoGradientError:
                results = {}
            share = None
        if not isinstance(results, Mapping):
            raise InputError(
                f"results: expected AttackResults by the names of attacks, got {type(results).__name__}; "
                "pass {'pgd': result}"
            )
        for name, out in results.items():
            if not isinstance(out, AttackResult) or len(out.status) != len(x):
                raise InputError(
                    f"results[{name!r}]: expected an AttackResult of these {len(x)} samples, got another; "
                    "pass results of the attacks on x"
                )
        whole = [out for out in results.values() if out.goal.whole]
        moved = [Evidence.of(out).within(problem.threat, out.distance.cpu()) for out in whole]
        evidence = [attack for attack in moved if attack is not None]
        if results and not evidence:
            raise InputError(
                f"results: expected one of an attack in {problem.threat.norm} and this box, for which any "
                "wrong class is a success, got none; give the threat of the attacks, or leave results out"
            )
        right = problem.y.bool()
        if len(x):
            right = classified(classifier.verdict(problem.x, problem.rows), problem.y)
        right = right.cpu()
        passes = sum(out.forwards + out.backwards for out in results.values()) / classifier.eot
        chosen = choose(evidence, right, passes, limit=limit, share=share, seed=seed)
        probed = problem.take(chosen.to(problem.x.device))
        return look(classifier, probed, chosen, evidence, right, seed=seed, sought=not results)


def choose(
    evidence: Sequence[Evidence], right: Tensor, passes: float, *, limit: int = SAMPLES,
    share: float | None = SHARE, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Return int64 [m], some of the samples that are `right` bool [N], for a share of so many `passes`."""
    order = rng.permutation(len(right), rng.derive(seed, "indicators"))
    order = order[right[order]][:limit]
    if share is None:
        return order
    blind = any_of((attack.blind for attack in evidence), len(right))
    cost = torch.where((broken_by(evidence, len(right)) & ~blind)[order], probes.BROKEN, probes.HELD)
    rejects = any(isinstance(attack.goal.criterion, Unless) for attack in evidence)
    cost[:LEAST] += probes.CHECKED + probes.ABSTAINS * rejects
    return order[: max(LEAST, int((cost.cumsum(0) <= share * passes).sum()))]


@dataclass
class _Findings:
    """Values of indicators, the lower ends of their intervals, and why others were not looked at."""

    values: dict[str, float] = field(default_factory=dict)
    lower: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    chance: str = ""

    def square(self, alone: int, lost: int, samples: int) -> None:
        """Enter what Square broke alone, beside what gradients broke that it did not."""
        least = at_least_alone(alone, lost, samples)
        if alone and not least:
            self.chance = f"Square alone broke {alone} of {samples} samples, gradients alone {lost}"
        self.count("square", alone, samples, least)

    def count(self, name: str, marked: int, samples: int, least: float | None = None) -> None:
        """Enter a share of the samples, and the lower end of its interval, unless larger ones stand there."""
        least = at_least(marked, samples) if least is None else least
        self.values[name] = max(marked / max(samples, 1), self.values.get(name, 0.0))
        self.lower[name] = max(least, self.lower.get(name, 0.0))

    def leave(self, names: Iterable[str], why: str) -> None:
        """Enter why indicators have no value."""
        for name in names:
            self.values.pop(name, None)
            self.unseen[name] = why

    def ended(self, evidence: Sequence[Evidence], **counts: Any) -> Indicators:
        """Return the indicators, without those that soft logits explain as well as masked gradients."""
        strongest = max(
            (attack for attack in evidence if attack.gradient),
            key=lambda attack: (int((attack.broken & ~attack.blind).sum()), not attack.soft),
            default=None,
        )
        if strongest is not None and strongest.soft:
            self.leave(BY_LEFT, SOFT_LOGITS)
        values = {name: self.values[name] for name in SIGNS if name in self.values}
        lower = {name: end for name, end in self.lower.items() if name in values}
        return Indicators(values, self.unseen, lower=lower, chance=self.chance, **counts)


def look(
    classifier: Prepared, problem: Task | None, chosen: Tensor, evidence: Sequence[Evidence],
    right: Tensor, *, seed: int = 0, raised: Collection[str] | None = None, batch_size: int = SAMPLES,
    sought: bool = False,
) -> Indicators:  # fmt: skip
    """Return the indicators by the evidence of N samples, and by probes of the `chosen` in `problem`.

    `sought` tells that an attack looked in vain for a gradient, which of a function is no sign.
    """
    before = classifier.asked
    findings = _by_attacks(evidence, right)
    findings.values["few_parameters"] = float(by_gradients_alone(evidence))
    stand_in, guided = stands_in(classifier.model), not any(attack.unguided for attack in evidence)
    why = "no attack states its threat, or criterion" if problem is None else ""
    if min(int(right.sum()), len(chosen)) < LEAST:
        why = FEWER
    if any(attack.parameters for attack in evidence):
        findings.values.pop("square", None)  # no sign of masking here
        why = "the threat is a map of parameters: evaluate in a ball of images, too, which probes the model"
    elif stand_in and guided:
        findings.unseen["square"] = STAND_IN
    if problem is None or why:
        names = [name for name in SIGNS if name in findings.unseen or name not in findings.values]
        findings.unseen = {name: findings.unseen.get(name, why) for name in names}
        return findings.ended(evidence)
    classifier, device = problem.classifier, problem.x.device
    search = all(attack.gradient and not attack.blind.any() for attack in evidence)
    if search and type(problem.threat) is not THREATS.get(problem.threat.norm):
        findings.leave(["square"], "no search without gradients serves this norm")
        search = False
    held = ~broken_by(evidence, len(right))[chosen]
    counts: Counter[str] = Counter()
    every = torch.arange(len(chosen), device=device)
    # The draws of a randomized model follow from the seed, and the caller's generators stay.
    with rng.generators_kept(device, rng.derive(seed, "indicators model")):
        few, least = (problem.take(every[:count]) for count in (SEEN, LEAST))
        blind = not any(attack.gradient for attack in evidence)
        if blind and not (sought and as_module(classifier.source)) and probes.cut(least):
            forwards = classifier.asked[0] - before[0]
            return Indicators(
                {}, dict.fromkeys(SIGNS, UNSEARCHED if guided else BLACK_BOX), forwards=forwards
            )
        if raised is None:
            asked = None if _of_classes(few) else (few.margin, few.y, few.targets)
            raised = symptoms(classifier, few.x, asked, few.rows)
        masked = _look_at_few(few, least, findings, raised, seed)
        abstains = isinstance(problem.criterion, Unless) and problem.threat.finite
        if abstains and not (masked or stand_in or findings.values["randomized"]):
            some = problem.take(held.nonzero().squeeze(1)[:LEAST].to(device))
            if probes.abstains_by_step(some, rng.derive(seed, "indicators abstains")):
                findings.values["incorrect_gradient"], masked = 1.0, {"": ABSTAINS}
        fixed, share = not findings.values["randomized"], findings.values.get("square", 0.0)
        excused = fixed and findings.lower.get("square") == 0 < share  # as chance; not behind a stand-in
        behind = stand_in or (fixed and (guided or excused) and probes.stands_in(least, seed))
        for index in torch.split(torch.arange(len(chosen), device="cpu"), batch_size):
            part = problem.take(index.to(device))
            left = part.take(held[index].nonzero().squeeze(1).to(device))
            counts.update(_counts(part, left, seed, search, bool(findings.values["randomized"])))
    lost = counts.pop("lost", 0)
    for name, count in counts.items():
        if name == "square" and findings.values["randomized"]:
            findings.square(count, lost, len(chosen))
        else:
            findings.count(name, count, len(chosen))
    if behind and excused:
        findings.count("square", round(share * int(right.sum())), int(right.sum()))
    if behind and guided and findings.lower.get("square", 0.0) <= SIGNS["square"].limit:
        findings.leave(["square"], STAND_IN)  # a short look does not stand for it
    findings.unseen = {name: why for name, why in findings.unseen.items() if name not in findings.values}
    if not _of_classes(problem):
        findings.leave(OF_CLASSES, "they need classes")
    missing = [name for name in SIGNS if name not in findings.values and name not in findings.unseen]
    findings.leave(missing, "the box is infinite" if problem.threat.finite else "the radius is infinite")
    forwards, backwards = (now - then for now, then in zip(classifier.asked, before, strict=True))
    return findings.ended(
        evidence, samples=len(chosen), forwards=forwards, backwards=backwards, masked=masked
    )


def _of_classes(problem: Task) -> bool:
    return problem.criterion.outputs == "classes"


def _by_attacks(evidence: Sequence[Evidence], right: Tensor) -> _Findings:
    """Return what the attacks say by themselves."""
    findings, count = _Findings(), int(right.sum())
    by_gradient = [attack for attack in evidence if attack.gradient]
    if not by_gradient:
        findings.leave(("incomplete", "square"), "no gradient attack")
        return findings
    findings.count("zero_gradient", max(int((attack.unmoved & right).sum()) for attack in by_gradient), count)
    searches = [attack for attack in evidence if bool(attack.blind.any()) or not attack.gradient]
    if searches:
        by_gradients = any_of((attack.broken & ~attack.blind for attack in by_gradient), len(right)) & right
        by_search = any_of((attack.blind for attack in searches), len(right)) & right
        alone, lost = int((by_search & ~by_gradients).sum()), int((by_gradients & ~by_search).sum())
        # Square of AutoAttack meets only samples that gradients left: its losses are not known.
        beside = not any(attack.gradient for attack in searches)
        findings.square(alone, lost, count) if beside else findings.count("square", alone, count)
    from_x, steps = (
        any_of((attack.broken & ~attack.blind for attack in by_gradient if attack.name in names), len(right))
        for names in (("fgsm",), ASCENTS)
    )
    alone, lost = int((from_x & ~steps & right).sum()), int((steps & ~from_x & right).sum())
    if at_least_alone(alone, lost, count) and any(attack.name in ASCENTS for attack in by_gradient):
        findings.values["clamped_input"] = (alone - lost) / count
    held = right & ~broken_by(evidence, len(right))
    rises = torch.stack([attack.unfinished for attack in by_gradient])[:, held]
    # An attack that came to its end counts before others.
    rise = torch.where(rises.isnan(), torch.inf, rises).amin(0)
    known = rise[rise.isfinite()]
    if len(rise) and not len(known):
        findings.leave(["incomplete"], "no attack that records its losses")
    elif count < LEAST:
        findings.leave(["incomplete"], FEWER)
    else:  # over all samples: where few hold, an attack that goes on cannot change much
        findings.values["incomplete"] = float(known.sum()) / max(count, 1)
    return findings


def _look_at_few(
    few: Task, least: Task, findings: _Findings, raised: Collection[str], seed: int
) -> dict[str, str]:
    """Enter what a few samples say about the model; return the modules that hide their gradient."""
    values, classifier = findings.values, few.classifier
    values |= {name: float(name in raised) for name in ("randomized", "probabilities", "optimizes")}
    if "optimizes" in raised:
        values["optimizes"] = float(probes.wrong_gradients(few).float().mean())
    skipped = not _of_classes(few) or values["probabilities"]
    kind = None if skipped else squashed(classifier.verdict(few.x, few.rows))
    values["bounded_outputs"] = float(kind is not None)
    values["edge_kink"] = 0.0
    with rng.generators_kept(least.x.device):  # what comes next draws as if it had not been asked
        flat = clamped_input.share(least, rng.derive(seed, "indicators clamp"))
    values["clamped_input"] = max(flat, values.get("clamped_input", 0.0))
    values["mixed_rows"] = float(probes.rows_mix(least))
    masked = {module.name: str(module) for module in masked_within(classifier, least.x, probes.NAMING)}
    if masked or stands_in(classifier.model):  # the gradient of a stand-in is not compared with the logits
        values["incorrect_gradient"] = float(bool(masked))
    elif probes.bounded(few):
        draws = rng.derive(seed, "indicators gradient")
        values["incorrect_gradient"] = probes.missing_gradient(least, draws)
    return masked


def _counts(part: Task, left: Task, seed: int, search: bool, randomized: bool) -> dict[str, int]:
    """Return at how many samples the gradient is zero, and what short attacks on those that held break."""
    flat = probes.without_gradient(part, "ce" if part.criterion is WRONG else part.margin)
    counts = {"zero_gradient": int(flat.sum())}
    if _of_classes(part) and probes.bounded(part):
        still = left if decides_by_class(part.criterion) else part
        draws, key = probes.DRAWS * randomized, rng.derive(seed, "indicators unconstrained")
        broken = probes.broken_without_radius(still, key, draws)
        counts["unconstrained"] = int((~broken).sum())
    if search and part.threat.finite:
        broken = probes.broken_by_square(left, rng.derive(seed, "indicators square"))
        # some samples of a randomized model held by chance alone: what steps break again, too
        again = probes.broken_by_steps(left, seed) if randomized else torch.zeros_like(broken)
        counts |= {"square": int((broken & ~again).sum()), "lost": int((again & ~broken).sum())}
    return counts
