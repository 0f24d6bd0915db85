"""What the first epoch shows of a run that learns little: it is told once."""

import math
from collections.abc import Iterator

import torch

from fastadv import rng
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import clamped_input
from fastadv.attacks.masking.probes import SAMPLES
from fastadv.engine.plain import Plain
from fastadv.train._steps import Steps
from fastadv.train.recipes import RECIPES, FastTraining, FGSMTraining, PGDTraining, Standard
from fastadv.train.recipes._common import far
from fastadv.train.recipes.base import innermost

ENOUGH = 20  # steps of an epoch, in the second half of which a net has learned something


def weak_learning(steps: Steps) -> Iterator[str]:
    """Yield warnings: of a loss above that of equal probabilities, of examples that a clamp makes weak."""
    if steps.criterion.outputs == "classes":
        yield from _above_chance(steps)
        yield from _clamped(steps)


def _above_chance(steps: Steps) -> Iterator[str]:
    recipe, feed = innermost(steps.recipe), steps.feed
    ours = type(recipe) in RECIPES.values() and getattr(recipe, "loss", "ce") == "ce"
    # one that diverged began near chance
    share = min(feed.batch_size, feed.epoch_size) / feed.epoch_size
    least = min(float(steps.losses.sum()), float(steps.losses[0]) / share)
    if ours and (text := far("the loss in epoch 1", least, steps.classes)):
        yield text
        return
    entropy = isinstance(recipe, Standard | FGSMTraining | PGDTraining | FastTraining)
    if not (ours and entropy) or feed.steps < ENOUGH:
        return
    # the first steps are those of the first weights, and the last batch may be smaller
    loss = float(steps.losses[feed.steps // 2 : -1].mean()) * feed.epoch_size / feed.batch_size
    chance = math.log(steps.classes)
    if loss > chance:
        ramp = "" if isinstance(recipe, Standard) else ", let the radius grow (ramp)"
        yield (
            f"the loss in the second half of epoch 1, {loss:.5g}, is above the {chance:.5g} of equal "
            f"probabilities for {steps.classes} classes; lower the learning rate{ramp}, or leave out a "
            "softmax at the end"
        )


def _clamped(steps: Steps) -> Iterator[str]:
    feed, threat = steps.feed, getattr(innermost(steps.recipe), "threat", None)
    threats = [one for one in getattr(threat, "threats", [threat]) if one is not None and one.finite]
    if not threats:
        return
    x, _, ids = feed.first(SAMPLES)
    x, plain = x.to(feed.device, feed.dtype), Plain(steps.model)
    with rng.generators_kept(feed.device), torch.inference_mode(False), torch.no_grad(), plain.in_eval():
        try:
            y = plain.verdict(x).argmax(1)
        except Exception:  # a model may take batches of one size alone
            return
        tasks = (Task.of(plain, x, y, threat, ids=ids) for threat in threats)
        weak = any(clamped_input.share(task, 0) > clamped_input.LIMIT for task in tasks)
    if weak:
        yield f"{clamped_input.WORDS.partition(':')[0]}, so examples are weak; {clamped_input.ADVICE}"
