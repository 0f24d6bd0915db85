"""The indicators: what the results say already, and short looks at some of the samples."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_count, check_seed, check_share, eager
from fastadv.attacks.core.common import Classifier
from fastadv.attacks.core.criterion import WRONG, decides_by_class
from fastadv.attacks.core.points import taken
from fastadv.attacks.core.problem import Problem, check_finite_radius
from fastadv.attacks.core.result import AttackResult, classified
from fastadv.attacks.core.run import prepare
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.evidence import Evidence, by_gradients_alone
from fastadv.attacks.masking.verdict import STAND_IN, Indicators
from fastadv.attacks.methods.flags import SIGNS, at_least, at_least_alone
from fastadv.attacks.methods.masked_modules import masked_within
from fastadv.attacks.methods.symptoms import symptoms
from fastadv.attacks.pgd import pgd
from fastadv.attacks.special.bounded_outputs import SOFT_LOGITS, falls_off
from fastadv.engine import Prepared
from fastadv.engine.module import replaced
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import Threat

SAMPLES = 200  # at most, that are looked at
LEAST = 8  # samples; fewer say nothing
FEWER = f"fewer than {LEAST} samples that the model gets right"
SHARE = 0.05  # of the passes of the attacks, which the looks may cost, unless they are at LEAST samples
SEEN = 32  # samples whose symptoms are looked for
BY_LEFT = ("incomplete", "square")  # told by what attacks left, be it for a weak loss
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
    samples, and a loss that still rises at the end. A share of samples counts by the lower end of its 95%
    interval.

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
        >>> found = fa.attacks.indicators(model, x, y, fa.Linf(0.1))
        >>> found.masked
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
        classifier, problem = prepare(model, x, y, threat, ids=ids)
        check_finite_radius(threat)
        if results is None:
            try:
                results = {"pgd": pgd(classifier, x, y, threat, steps=probes.LONG_STEPS, seed=seed, ids=ids)}
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
        found = [Evidence.of(out).within(problem.threat, out.distance.cpu()) for out in whole]
        evidence = [each for each in found if each is not None]
        if results and not evidence:
            raise InputError(
                f"results: expected one of an attack in {problem.threat.norm} and this box, for which any "
                "wrong class is a success, got none; give the threat of the attacks, or leave results out"
            )
        right = (
            classified(classifier.verdict(problem.x), problem.y).cpu() if len(x) else problem.y.bool().cpu()
        )
        passes = sum(out.forwards + out.backwards for out in results.values())
        each = classifier.eot
        chosen = choose(evidence, right, passes / each, limit=limit, share=share, seed=seed)
        return look(classifier, problem.take(chosen.to(problem.x.device)), chosen, evidence, right, seed=seed)


def choose(
    evidence: Sequence[Evidence], right: Tensor, passes: float, *, limit: int = SAMPLES,
    share: float | None = SHARE, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Return int64 [m], some of the samples that are `right` bool [N], for a share of so many `passes`."""
    order = rng.permutation(len(right), rng.derive(seed, "indicators"))
    order = order[right[order]][:limit]
    if share is None:
        return order
    blind = torch.stack([torch.zeros_like(right), *(each.blind for each in evidence)]).any(0)
    cost = torch.where((together(evidence, len(right)) & ~blind)[order], probes.BROKEN, probes.HELD)
    cost[:LEAST] += probes.CHECKED
    return order[: max(LEAST, int((cost.cumsum(0) <= share * passes).sum()))]


def look(
    classifier: Prepared, problem: Problem | None, chosen: Tensor, evidence: Sequence[Evidence],
    right: Tensor, *, seed: int = 0, raised: Collection[str] | None = None, batch_size: int = SAMPLES,
) -> Indicators:  # fmt: skip
    """Return the indicators by the evidence of N samples, and by probes of the `chosen` in `problem`."""
    before = classifier.asked
    values, lower, unseen = _told(evidence, right)
    values["few_parameters"] = float(by_gradients_alone(evidence))
    why, broken = _hindrance(problem, len(chosen), int(right.sum())), together(evidence, len(right))
    known = bool(replaced(classifier.model)) or classifier.input_threshold is not None
    guided = not any(each.unguided for each in evidence)
    classes = problem is None or problem.criterion.outputs == "classes"
    if any(each.parameters for each in evidence):
        values.pop("square", None)  # no sign of masking here
        why = "the threat is a map of parameters"
    elif known and guided:
        unseen["square"] = STAND_IN
    if problem is None or why:
        return _known(evidence, values, _not_in(values, why) | unseen, lower)
    # what a randomized model draws follows from the seed, and the caller's generators stay
    with rng.generators_kept(problem.x.device, rng.derive(seed, "indicators model")):
        few = torch.arange(min(len(chosen), SEEN), device=problem.x.device)
        classifier.begin(problem.x, problem.ids)
        classifier.asks_for(problem.ids[few])
        if raised is None:
            asked = None if classes else (problem.margin, problem.y[few], taken(problem.targets, few))
            looks = vars(symptoms(classifier, problem.x[few], asked))
            raised = [name for name, seen in looks.items() if seen]
        values |= {name: float(name in raised) for name in ("randomized", "probabilities", "optimizes")}
        if "optimizes" in raised:
            values["optimizes"] = float(probes.wrong_gradients(classifier, problem.take(few)).float().mean())
        least = problem.take(few[:LEAST])
        classifier.asks_for(least.ids)
        skipped = not classes or values["probabilities"]
        squashed = 0.0 if skipped else falls_off(classifier, least.x)
        values |= {"bounded_outputs": squashed, "edge_kink": probes.edge_kink(classifier, least)}
        values["mixed_rows"] = float(probes.rows_mix(classifier, least))
        classifier.asks_for(least.ids)
        masked, missing = _hidden(classifier, least, seed, known)
        if missing is not None:
            values["incorrect_gradient"] = missing
        alone = guided and (known or not values["randomized"])
        alone = alone and (known or probes.stands_in(classifier, least, seed))
        held = ~broken[chosen]
        blind = all(each.gradient and not bool(each.blind.any()) for each in evidence)
        seen: Counter[str] = Counter()
        for index in torch.split(torch.arange(len(chosen), device="cpu"), batch_size):
            part = problem.take(index.to(problem.x.device))
            classifier.asks_for(part.ids)
            loss = "ce" if part.criterion is WRONG else part.margin
            flat = probes.without_gradient(classifier, part.x, part.y, loss, part.targets, part.mask)
            seen["zero_gradient"] += int(flat.sum())
            left = part.take(held[index].nonzero().squeeze(1).to(problem.x.device))
            if classes and probes.bounded(problem):
                draws = rng.derive(seed, "indicators unconstrained")
                still = left if decides_by_class(problem.criterion) else part
                seen["unconstrained"] += int((~probes.broken_without_radius(classifier, still, draws)).sum())
            if blind and problem.threat.finite:
                draws = rng.derive(seed, "indicators square")
                seen["square"] += int(probes.broken_by_square(classifier, left, draws).sum())
    for name, marked in seen.items():
        values[name] = max(marked / len(chosen), values.get(name, 0.0))
        lower[name] = max(at_least(marked, len(chosen)), lower.get(name, 0.0))
    if alone and lower.get("square", 0.0) <= SIGNS["square"].limit:  # a short look does not stand for it
        values.pop("square", None)
        unseen["square"] = STAND_IN
    if not classes:
        values = {name: value for name, value in values.items() if name not in OF_CLASSES}
        unseen |= dict.fromkeys(OF_CLASSES, "they need classes")
    unseen = {name: why for name, why in unseen.items() if name not in values}
    unseen |= _not_in({**values, **unseen}, _absent(problem))
    spent = classifier.asked[0] - before[0], classifier.asked[1] - before[1]
    return _known(
        evidence, values, unseen, lower, samples=len(chosen), forwards=spent[0], backwards=spent[1],
        masked=masked,
    )  # fmt: skip


def _known(
    evidence: Sequence[Evidence], values: Mapping[str, float], unseen: Mapping[str, str],
    lower: Mapping[str, float], **told: Any,
) -> Indicators:  # fmt: skip
    """Return the indicators, without those that soft logits explain as well as masked gradients."""
    strongest = max(
        (each for each in evidence if each.gradient),
        key=lambda each: (int((each.broken & ~each.blind).sum()), not each.soft),
        default=None,
    )
    soft = dict.fromkeys(BY_LEFT, SOFT_LOGITS) if strongest is not None and strongest.soft else {}
    values = {name: values[name] for name in SIGNS if name in values and name not in soft}
    lower = {name: end for name, end in lower.items() if name in values}
    return Indicators(values, {**unseen, **soft}, lower=lower, **told)


def _hidden(
    classifier: Prepared, problem: Problem, seed: int, known: bool
) -> tuple[dict[str, str], float | None]:
    """Return the modules that hide their gradient, and 1 where there are any, else how much is missing."""
    # a gradient that is known to be another's is not compared with the logits: None
    masked = {each.name: str(each) for each in masked_within(classifier, problem.x, probes.NAMING)}
    if masked or known:
        return masked, float(bool(masked))
    if not probes.bounded(problem):
        return masked, None
    return masked, probes.missing_gradient(classifier, problem, rng.derive(seed, "indicators gradient"))


def together(evidence: Sequence[Evidence], count: int) -> Tensor:
    """Return bool [N], the samples that some attack broke."""
    none = torch.zeros(count, dtype=torch.bool, device="cpu")
    return torch.stack([none, *(each.broken for each in evidence)]).any(0)


def _told(
    evidence: Sequence[Evidence], right: Tensor
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Return what the evidence says by itself, at least by chance, and what it does not say and why."""
    by_gradient = [each for each in evidence if each.gradient]
    held, count = right & ~together(evidence, len(right)), int(right.sum())
    if not by_gradient:
        return {}, {}, dict.fromkeys(("incomplete", "square"), "no gradient attack")
    unmoved = max(int((each.unmoved & right).sum()) for each in by_gradient)
    values, lower = {"zero_gradient": unmoved / max(count, 1)}, {"zero_gradient": at_least(unmoved, count)}
    blind = [each for each in evidence if bool(each.blind.any()) or not each.gradient]
    if blind:
        seeing = torch.stack([each.broken & ~each.blind for each in by_gradient]).any(0) & right
        found = torch.stack([each.blind for each in blind]).any(0) & right
        alone, lost = int((found & ~seeing).sum()), int((seeing & ~found).sum())
        values["square"] = alone / max(count, 1)
        # what Square of AutoAttack, which meets only what gradients left, would have lost is not known
        whole = not any(each.gradient for each in blind)
        lower["square"] = at_least_alone(alone, lost, count) if whole else at_least(alone, count)
    told = torch.stack([each.unfinished for each in by_gradient])[:, held]
    # of several attacks the one that came to its end counts
    least = torch.where(told.isnan(), torch.inf, told).amin(0)
    known = least[least.isfinite()]
    if len(least) and not len(known):
        return values, lower, {"incomplete": "no attack that records its losses"}
    if count < LEAST:
        return values, lower, {"incomplete": FEWER}
    # over all samples: where few hold, an attack that goes on cannot change much
    return values | {"incomplete": float(known.sum()) / max(count, 1)}, lower, {}


def _hindrance(problem: Problem | None, chosen: int, right: int) -> str:
    """Return why samples cannot be probed; "" where they can."""
    if min(right, chosen) < LEAST:
        return FEWER
    return "no attack states its threat, or criterion" if problem is None else ""


def _absent(problem: Problem) -> str:
    return "the radius is infinite" if not problem.threat.finite else "the box is infinite"


def _not_in(known: Mapping[str, object], why: str) -> dict[str, str]:
    return {name: why for name in SIGNS if name not in known}
