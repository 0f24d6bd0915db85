"""What about a model makes an evaluation by gradients misleading."""

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fastadv.engine import Model, Prepared, prepare
from fastadv.engine.guard import near
from fastadv.errors import NoGradientError
from fastadv.losses import Loss
from fastadv.ops.latent_fit import latent_fit
from fastadv.rng import generators_kept

ONE = 1e-5  # how far a sum of probabilities is from 1 in float32, as in AutoAttack
SEEN = 32  # samples at most that are looked at
PASSES = 5  # verdicts on the same samples that are compared
# The least distance of the directions of centered logits in two passes of a randomized model: what AutoAttack
# allows normalized outputs. Passes of other models differ by their rounding, if at all.
APART = 1e-4
SCRAMBLED = 0.1  # of their length, by which most samples' gradients differ in another pass if scrambled
# Functions of Python whose call in a forward pass means that it optimizes something.
OPTIMIZING = {torch.autograd.grad.__code__, torch.autograd.backward.__code__, latent_fit.__code__}

Asked = tuple[Loss, Tensor, Tensor | None]  # loss, labels and targets of outputs that are no logits


def symptoms(
    model: Model | Prepared, x: Tensor, asked: Asked | None = None, rows: Tensor | None = None
) -> tuple[str, ...]:
    """Return the signs that gradient attacks cannot judge a model, on x [B, ...], a few dozen samples.

    They are four of the five about which AutoAttack warns (Croce and Hein 2020); the fifth takes an attack:
    "randomized" where passes, or most of their gradients, differ by more than rounding; "probabilities" where
    rows of the output are >= 0 and sum to 1; "zero_gradient" where a sample has none; "optimizes" where a
    forward pass computes gradients or fits latents.
    """
    classifier = prepare(model)
    with generators_kept(x.device):
        verdicts = torch.stack([classifier.verdict(x, rows) for _ in range(PASSES)])
        optimizes = _optimizes(classifier, x, rows)
        asked_for = asked or ("ce", verdicts[0].nan_to_num().argmax(1), None)
        zero, scrambled = _gradients(classifier, x, *asked_for, rows)
    signs = {
        "randomized": scrambled or _randomized(classifier, verdicts, centered=asked is None),
        "probabilities": asked is None and _probabilities(classifier, verdicts[0]),
        "zero_gradient": zero,
        "optimizes": optimizes,
    }
    return tuple(name for name, raised in signs.items() if raised)


def _randomized(classifier: Prepared, verdicts: Tensor, centered: bool) -> bool:
    finite = verdicts.isfinite().all(2)
    if not bool((finite == finite[0]).all()):
        return True
    kept = verdicts[:, finite[0]].double()
    if not kept.numel():
        return False
    kept = kept[..., near(kept)] if centered else kept
    # The direction of logits counts, and the size of other outputs.
    away = kept - kept.mean(2, keepdim=True) if centered else kept
    size = away.norm(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    size = size if centered else size.amax(0, keepdim=True)
    units, eps = away / size, torch.finfo(classifier.dtype or torch.float32).eps
    rounding = (8 * eps * kept.norm(dim=2) / size.squeeze(2)).amax(0)
    apart = (units[:, None] - units).norm(dim=3).amax((0, 1))
    return bool((apart > rounding.clamp_min(APART)).any())


def _probabilities(classifier: Prepared, logits: Tensor) -> bool:
    rows = logits[logits.isfinite().all(1)].double()
    # The rounding of one pass in the model's format is relative to each value, so at most that of the sum.
    slack = max(ONE, torch.finfo(classifier.dtype or torch.float32).eps)
    return bool(len(rows)) and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() <= slack).all())


def _gradients(
    classifier: Prepared, x: Tensor, loss: Loss, y: Tensor, targets: Tensor | None, rows: Tensor | None
) -> tuple[bool, bool]:
    """Return whether a sample has no gradient, and whether most have others in a second pass."""
    try:
        first, second = (
            classifier.input_gradient(x, y, loss, targets, True, rows)[2].flatten(1) for _ in range(2)
        )
    except NoGradientError:
        return True, False
    apart = (first - second).norm(dim=1) > SCRAMBLED * first.norm(dim=1)
    return bool((first == 0).all(1).any()), bool(apart.double().mean() > 0.5)


def _optimizes(classifier: Prepared, x: Tensor, rows: Tensor | None) -> bool:
    """Return whether a pass calls a function of OPTIMIZING, unless a profiler has this thread already."""
    if sys.getprofile() is not None:
        return False
    seen: list[bool] = []

    def watch(frame: FrameType, event: Any, argument: Any) -> None:
        if event == "call" and frame.f_code in OPTIMIZING:
            seen.append(True)

    sys.setprofile(watch)
    try:
        classifier.verdict(x, rows)
    finally:
        sys.setprofile(None)
    return bool(seen)
