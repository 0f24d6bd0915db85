"""Projected gradient descent (Madry et al. 2018)."""

from typing import Unpack

from torch import Tensor

from fastadv import losses
from fastadv.attacks import core
from fastadv.attacks.core.record import Steps
from fastadv.attacks.methods.ascent import ascent, step_size_for
from fastadv.threat import Threat
from fastadv.threat.checks import StepSize


@core.registered(random=True, paper="Madry et al. 2018")
@core.tested(quick={"steps": 10})
@core.takes_common
def pgd(
    model: core.Classifier, x: Tensor, y: Tensor | None, threat: Threat, *, steps: int = 40,
    step_size: StepSize | None = None, restarts: int = 1, random_start: bool = True,
    loss: losses.Loss = "ce_sharp", stop_early: bool = True, seed: int = 0,
    **common: Unpack[core.GradientCommon],
) -> core.AttackResult:  # fmt: skip
    """Maximize loss(model(z), y) over z in ball and box, by projected steepest ascent from a random start.

    z <- project(z + step_size * ascent direction), where the direction is that of the threat's norm: the sign
    of the gradient for Linf, the gradient over its length for L2. The strongest of all points met is kept,
    not the last. Misclassified x come back unchanged: to train, take `fastadv.train.craft`.

    Args:
        model: classifier or Frozen; x [B, ...] in the threat's box to logits [B, K]. It is not changed.
        x: floating [B, ...] inside the box; of half precision taken in float32.
        y: int [B], labels; or what the criterion takes.
        threat: Linf, L2, L1 or L0; radius a number or [B], in input units; infinite only with a step_size and
            `random_start=False`.
        steps: moves in each restart; 0 returns the start. 40 as in the paper on MNIST. From 50 on, a CPU
            leaves out those that would repeat earlier ones (`cycled` of the result).
        step_size: a number or [B], in input units (L0: coordinates); None is 2.5 * radius / steps, as in the
            paper. With `eot` > 1 they fall from two radii to a fiftieth: what draws add averages out.
        restarts: attempts, each with other random numbers; the best result of each sample is kept.
        random_start: whether the first attempt, too, starts at a random point of ball and box; False starts
            it at x.
        loss: "ce", "ce_sharp", "margin", "dlr", "cw", "bce" (see `fastadv.ops.logit_loss`), or a function
            (logits, y, targets) -> [B]; it is maximized. "ce" is the published choice. The default,
            "ce_sharp", first scales logits up whose largest differ little, and breaks more where they are
            nearly alike. With a criterion of one class the default is its margin: half of the steps then lead
            to the likeliest class that would meet it, half to the next one.
        stop_early: whether a sample stops at its first success; False searches on for its strongest point.
        seed: of all random numbers, an integer >= 0.
        targets: int [B], the class that each sample must be taken for; a success is a decision for it. None,
            the default, accepts every class but y.
        criterion: what a success must fulfill beyond the class: `ConfidentlyWrong(confidence)`,
            `WrongBy(lead)`, `OutsideTopK(k)` or `Unless(reject)`. Of models with other outputs `Signs()`,
            `Share(least)` or `Beyond(distance)`, which say what y and targets are, and which losses there
            are. None, the default, asks for the class alone.
        mask: bool, broadcasts to x; only coordinates where it is True may change. None, the default, lets
            all of them change.
        eot: forward passes of a randomized model over which the search averages loss, logits and gradient
            (expectation over transformation), an integer >= 1; the default is 1. With more, x is attacked
            where any pass misreads it, all steps are taken, and an attack with a radius returns the last
            point of a run, of several runs that of the largest mean; one for the nearest keeps the nearest
            success of the means.
        ids: int [B], sample numbers, by default 0 to B - 1. Random numbers depend on them, not on the place
            in the batch.
        freeze: whether to search on a frozen copy of the model (`fastadv.freeze`); None, the default, does
            so where steps times samples are many. A Frozen is used as it is.
        gradient: rules that make the gradient to follow, such as those of docs/transfer.md; the first one
            asks the model. They do not change what counts as a success, nor the losses that are reported.
            Random numbers are those of the seed, 0 in an attack without one. The default is (), the gradient
            itself.

    Returns:
        An `AttackResult` with the adversarial examples x_adv, like x, and success, bool [B]. Where nothing
        was found, x_adv is the strongest point for an attack with a budget, and x itself for a minimum-norm
        attack.

    Raises:
        InputError: an argument is wrong; the message names it, what was expected and what came.

    Example:
        >>> import fastadv as fa
        >>> x = fa.data.load("digits", "test").x[:8]
        >>> model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
        >>> y = model(x).argmax(1)  # what it decides before the attack
        >>> out = fa.attacks.pgd(model, x, y, fa.Linf(0.3), steps=10, restarts=2)
        >>> bool(out.success.all()), bool((out.distance <= 0.3001).all())
        (True, True)

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks" (arXiv 1706.06083),
        equation 2 and section 4.
    """
    size = step_size_for(threat, x, steps, 2.5, step_size)
    rule = ascent(steps, size, random_start, shorten=step_size is None)
    return core.run(
        model, x, y, threat, rule, rows=Steps, steps=steps, loss=loss, restarts=restarts,
        stop_early=stop_early, seed=seed, from_x=not random_start, **common,
    )  # fmt: skip
