"""indicators: signs that a model masks its gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fastadv import rng
from fastadv._checks import check_seed, knowing
from fastadv.attacks.core.checks import check_finite_radius
from fastadv.attacks.core.common import Classifier
from fastadv.attacks.core.result import AttackResult, classified
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import Evidence, Indicators, choose, look
from fastadv.attacks.pgd import pgd
from fastadv.errors import InputError, NoGradientError
from fastadv.threat import Threat

STEPS = 40  # of PGD at the radius, where no results are given


@knowing
def indicators(
    model: Classifier, x: Tensor, y: Tensor, threat: Threat, *,
    results: Mapping[str, AttackResult] | None = None, seed: int = 0, ids: Tensor | None = None,
) -> Indicators:  # fmt: skip
    """Look for signs that a model masks its gradients, so that attacks overstate its robustness.

    Some signs are in the results of attacks: no gradient, or Square that finds more than gradients. The
    others are looked for at eight samples, drawn by the seed among those that the model gets right, in at
    most twelve passes. A share counts by the lower end of its 95% interval.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is not changed.
        x: floating [B, ...] inside the box.
        y: int [B], labels.
        threat: the ball that was searched; its radius is finite, a number or [B].
        results: of attacks on exactly these samples, by name. None runs PGD with 40 steps. What they broke
            within this threat counts. Results in another norm or box, and those with targets, a criterion or
            a mask, do not count.
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
        >>> signs.flagged
        ()

    Source:
        Pintor et al. 2022, "Indicators of Attack Failure" (arXiv 2106.09947); Athalye et al. 2018 (arXiv
        1802.00420); Croce and Hein 2020 (arXiv 2003.01690).
    """
    check_seed(seed)
    with torch.inference_mode(False), torch.no_grad():
        task = Task.of(model, x, y, threat, ids=ids)
        check_finite_radius(threat)
        with task.classifier.in_eval(), rng.generators_kept(x.device):
            if results is None:
                try:
                    results = {"pgd": pgd.on(task, steps=STEPS, seed=seed)}
                except NoGradientError:
                    results = {}
            evidence, right = _of_results(results, task), task.y.bool()
            if len(x):
                right = classified(task.classifier.verdict(task.x, task.rows), task.y)
            chosen = choose(right.cpu(), seed)
            few = task.take(chosen.to(x.device))
            return look(task.classifier, few, chosen, evidence, right.cpu(), seed=seed)


def _of_results(results: Mapping[str, AttackResult], task: Task) -> list[Evidence]:
    """Return what results say of this threat; InputError where none does."""
    if not isinstance(results, Mapping):
        raise InputError(
            f"results: expected AttackResults by the names of attacks, got {type(results).__name__}; "
            "pass {'pgd': result}"
        )
    for name, out in results.items():
        if not isinstance(out, AttackResult) or len(out.status) != len(task.x):
            raise InputError(
                f"results[{name!r}]: expected an AttackResult of these {len(task.x)} samples, got another; "
                "pass results of the attacks on x"
            )
    whole = [out for out in results.values() if out.goal.whole]
    evidence = [
        Evidence.of(out).within(task.threat, out.distance.cpu(), out.threat.radius)
        for out in whole
        if out.threat is not None and out.threat.metric == task.threat.metric
    ]
    if results and not evidence:
        raise InputError(
            f"results: expected one of an attack in {task.threat.norm} and this box, for which any "
            "wrong class is a success, got none; give the threat of the attacks, or leave results out"
        )
    return evidence
