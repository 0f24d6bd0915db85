"""AutoAttack: a sequence of attacks, each on the samples that survived the others (Croce & Hein 2020)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from fastadv._checks import check_flag, check_seed
from fastadv.attacks import core
from fastadv.attacks.auto.run import ATTACKS, AutoAttackResult, Run
from fastadv.attacks.auto.versions import VERSIONS, Version, check_version, components, search, stages
from fastadv.attacks.core.task import handed
from fastadv.attacks.core.trial import Trial
from fastadv.attacks.masking import Evidence, choose, look
from fastadv.attacks.masking.evidence import FEW, FEW_PARAMETERS, counted
from fastadv.engine.module import replaced
from fastadv.threat import Threat

__all__ = ["ATTACKS", "VERSIONS", "AutoAttackResult", "Version", "autoattack"]

EOT = 20  # passes of "rand"


def _averages(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"eot": EOT} if arguments.get("version") == "rand" else {}


@core.registered(needs="classes", random=True, paper="Croce and Hein 2020, 2021")
@core.tested(quick={"version": "quick"})
@core.takes_common(norms=("linf", "l2", "l1"), finite=True, door=_averages)
def autoattack(
    model: core.Classifier, x: Tensor, y: Tensor, threat: Threat, *,
    version: Version | Sequence[str] = "standard", seed: int = 0, indicators: bool = True,
    progress: bool = False, on_progress: Callable[[str, int, int], None] | None = None,
    **common: Unpack[core.Common],
) -> AutoAttackResult:  # fmt: skip
    """Attack with a sequence of attacks, each run on the samples that survived the previous ones.

    The robust accuracy that it leaves needs no choice of parameters. The versions:

    - "standard": APGD on the cross-entropy, targeted APGD on DLR and targeted FAB for nine classes (100 steps
      each), and Square with 5,000 queries; in L1, APGD with five restarts and five classes.
    - "plus": APGD on both losses and FAB, to the boundaries of all classes, with five restarts each, Square,
      and the targeted attacks.
    - "rand": APGD on "ce_sharp" and on DLR, each gradient the mean of 20 passes. One more pass of the whole
      batch decides which samples are broken, so robust accuracy comes out higher than by the authors' count.
    - "quick": APGD on the margin; then in Linf APGD that begins in balls of 1.5 to 3 times the radius: for
      the three classes nearest by the gradient (40 steps each), on the margin (50 steps) in five attempts,
      and on "ce_sharp" (100 steps), and 60 queries of Square; in L2 PDPGD (300 steps), the three classes on
      DLR (50 steps each), and 100 queries; in L1 nine classes (50 steps each), 200 queries, and PDPGD.
      Samples whose gradients were all zero or not finite, and all under `bpda`, get the 5,000 queries of
      "standard". It takes about an eighth of the passes of "standard", in L1 a fifth.
    - "screen": at most 200 passes of a sample, forward and backward, and no queries: APGD from balls of 1.5
      or 2 times the radius on "ce_sharp" (17 steps), on the margin for the three classes with the largest
      logits (16 steps each) and on "ce_sharp" (26 steps); in L2 on "ce_sharp", PDPGD (47 steps), and on the
      margin (28 steps). For many looks, as one in each epoch: it takes 1/45 of the passes of
      "standard". It does not see what only queries break, as where gradients are masked, and in L2 and L1
      not what only hundreds of steps break.
    - "strong": "standard", and then, on what is left, PDPGD in L2 and L1; five restarts of APGD on the
      margin, from a ball of twice the radius, and on "ce_sharp"; targeted APGD on DLR for all classes, or for
      the 30 nearest of more than 20, with two restarts; and Square again. It takes about twice the passes of
      "standard".
    - "robustvlm": APGD on the cross-entropy with five restarts and targeted APGD on DLR for nine classes (100
      steps each), the zero-shot evaluation of Robust CLIP; of two classes the first alone. It has no search
      without gradients: where gradients are masked, take "standard".

    Where targets are given, all attacks aim at these alone; where a criterion is given, its margin replaces
    DLR. For a criterion whose margin leads to no class, such as OutsideTopK, restarts of one attack replace
    the classes. A component that needs gradients on a model without them is left out, and a note says so. The
    whole batch is attacked at once: for more samples than fit into memory, use `fastadv.evaluate`.

    Args:
        threat: Linf, L2 or L1; the radius is finite, a number or [B].
        version: "standard", "plus", "rand", "quick", "screen", "strong" or "robustvlm"; or a list of
            "apgd-ce", "apgd-ce-sharp", "apgd-dlr", "apgd-margin", "apgd-t", "fab", "fab-t", "pdpgd" and
            "square", with the settings of "standard". For an attack of your own beside them use
            `fastadv.evaluate`.
        indicators: look for signs of masked gradients at the end, as `fastadv.attacks.indicators` does; the
            `verdict` of the result says what they come to.
        progress: whether to write a line on stderr after each component, with the robust accuracy so far.
        on_progress: called as (component, samples left, the most queries of each, 0 with gradients) before
            each component.
        eot: passes that each gradient averages, an integer >= 1; "rand" has 20 unless you give another.
        others: as in `pgd`, and so is Raises.

    Returns:
        An `AutoAttackResult`: adversarial examples, the component that broke each sample, and warnings.

    Example:
        >>> out = fa.attacks.autoattack(model, x, y, fa.Linf(0.3), version="quick")
        >>> bool(out.success.all()), set(out.by)
        (True, {'apgd-margin'})

    Source:
        Croce and Hein 2020 (arXiv 2003.01690); for L1, Croce and Hein 2021 (arXiv 2103.01208); for the
        nearest classes of "quick" and "strong", Melamed et al. 2024 (arXiv 2407.02240); for "robustvlm",
        Schlarmann et al. 2024 (arXiv 2402.12336) and the custom version in their code.
    """
    check_seed(seed)
    check_version(version)
    strong = version == "strong"
    run = Run(Trial(handed(model)), seed, on_progress, check_flag("progress", progress))
    if version != "rand" and (indicators or version != "screen"):  # which a screen has no passes for
        run.look()
    listed = components("standard" if strong else version, run)
    listed += stages(run) if strong else []
    for component in listed:
        run.component(component)
    if version == "quick":  # its queries are few where no other attack can see, or sees by a stand-in
        unseen = run.left if replaced(run.trial.classifier.model) else run.unseen()
        run.component(replace(search(5000, rescale=False), name="standard square"), unseen)
    if version == "standard" and threat.norm != "linf" and len(run.left):
        run.note(f'version="strong" also minimizes the {threat.symbol} norm, which may break more')
    named = version if isinstance(version, str) else ", ".join(part.name for part in listed)
    out = replace(run.finish(), version=named)
    return _with_indicators(out, run) if indicators else out


def _with_indicators(out: AutoAttackResult, run: Run) -> AutoAttackResult:
    """Return the result with the indicators of masked gradients, and the passes they took."""
    trial, seed, warnings = run.trial, run.seed, run.warnings
    right = torch.zeros_like(out.success, device="cpu").index_fill_(0, trial.todo.cpu(), True)
    evidence, chosen = Evidence.of(out), choose(right, seed)
    task = trial.problem.take(chosen.to(trial.problem.x.device))
    signs = look(trial.classifier, task, chosen, [evidence], right, seed=seed, raised=warnings)
    if out.version == "rand":  # which averages over passes
        signs = replace(signs, lower={**signs.lower, "randomized": 0.0})
    if trial.problem.through is not None and evidence.gradient:
        mapped: Any = trial.problem.classifier
        few = counted(trial.problem.x, mapped.x) <= FEW
        signs = replace(signs, remarks=[*[FEW_PARAMETERS] * few, *signs.remarks])
    forwards, backwards = out.forwards + signs.forwards, out.backwards + signs.backwards
    return replace(out, indicators=signs, forwards=forwards, backwards=backwards)
