"""The signs: what the results of attacks say already, and short looks at eight of the samples."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fastadv import rng
from fastadv.attacks.core.task import Task
from fastadv.attacks.masking import clamped_input, probes
from fastadv.attacks.masking.evidence import Evidence, broken_by
from fastadv.attacks.masking.flags import SIGNS, at_least, at_least_alone
from fastadv.attacks.masking.verdict import BLACK_BOX, INCOMPLETE, STAND_IN, UNSEARCHED, Indicators
from fastadv.engine import Prepared
from fastadv.engine.module import as_module, replaced
from fastadv.outputs import SOFT_LOGITS, squashed

UNPROBED = f"it takes {probes.SAMPLES} samples that the model gets right, and an attack in a ball of images"
RISES = 0.05  # share of the rise of the loss that came with the last gradients, above which more would help
OF_CLASSES = ("bounded_outputs", "unconstrained")


def choose(right: Tensor, seed: int = 0) -> Tensor:
    """Return int64 [m], at most eight of the samples that are `right` bool [N], drawn by the seed."""
    order = rng.permutation(len(right), rng.derive(seed, "indicators"))
    return order[right[order]][: probes.SAMPLES]


def look(
    classifier: Prepared, task: Task | None, chosen: Tensor, evidence: Sequence[Evidence], right: Tensor, *,
    seed: int = 0, raised: Collection[str] = (), batch_size: int = 200,
) -> Indicators:  # fmt: skip
    """Return the signs by the evidence of N samples, and by looks at the `chosen`, of which the `task` is.

    What attacks have `raised` is known.
    """
    signs, mended = _by_attacks(evidence, right), bool(replaced(classifier.model))
    if task is None or task.through is not None or len(chosen) < probes.SAMPLES:
        signs.followed_a_stand_in(mended)
        signs.leave([name for name in SIGNS if name not in signs.values], UNPROBED)
        return signs.ended().with_flags(raised)
    before = task.classifier.asked
    # The draws of a randomized model follow from the seed, and the caller's generators stay.
    with rng.generators_kept(task.x.device, rng.derive(seed, "indicators model")):
        first = probes.Answer.of(task)
        random = "randomized" in raised or probes.randomized(task, first, probes.Answer.of(task))
        # A function has no gradient, which is no sign; of a module it is one where an attack asked for it.
        sought = not evidence or "zero_gradient" in raised
        if not first.leads and not (sought and as_module(classifier.source)):
            unseen = dict.fromkeys(SIGNS, BLACK_BOX if signs.searched else UNSEARCHED)
            black_box = Indicators({}, unseen, forwards=2 * len(chosen))
            return black_box.with_flags([*raised, *["randomized"] * random])
        held = (right & ~broken_by(evidence, len(right)))[chosen]
        stand_in = _probe(signs, task, first, held, random, mended, seed, batch_size)
    forwards, backwards = (now - then for now, then in zip(task.classifier.asked, before, strict=True))
    signs.followed_a_stand_in(stand_in)
    return signs.ended(len(chosen), forwards, backwards).with_flags(raised)


def _probe(
    signs: "_Signs", task: Task, first: probes.Answer, held: Tensor, random: bool, mended: bool, seed: int,
    batch_size: int,
) -> bool:  # fmt: skip
    """Enter what the samples of a task say, `held` bool [B]; return whether the gradient is a stand-in's."""
    alone = "randomized" if random else probes.differs_alone(task, first.logits)
    random = alone == "randomized"
    signs.values |= {name: float(alone == name) for name in ("mixed_rows", "randomized")}
    signs.values["clamped_input"] = clamped_input.share(task, rng.derive(seed, "indicators clamp"))
    signs.count("zero_gradient", int(first.without_gradient(task).sum()), len(task.x))
    stand_in = mended or (not random and first.leads and probes.stands_in(task, first.gradient, seed))
    ways = probes.walked(task, first.gradient, rng.derive(seed, "indicators ways"), batch_size)
    signs.values["incorrect_gradient"] = 0.0 if mended else ways.unexplained(stand_in or random)
    if task.outputs == "classes":
        signs.values["bounded_outputs"] = float(squashed(first.logits) is not None)
        signs.count("unconstrained", int((ways.left & held).sum()), len(task.x))
    else:
        signs.leave(OF_CLASSES, "they need classes")
    return stand_in


@dataclass
class _Signs:
    """Values of signs, the lower ends of their intervals, and why others were not looked at."""

    right: int  # samples
    searched: bool  # long enough without gradients
    values: dict[str, float] = field(default_factory=dict)
    lower: dict[str, float] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    rises: bool = False  # whether the loss still does at the end of the attacks

    def count(self, name: str, marked: int, samples: int, least: float | None = None) -> None:
        """Enter a share of the samples, and the lower end of its interval, unless larger ones stand there."""
        least = at_least(marked, samples) if least is None else least
        self.values[name] = max(marked / max(samples, 1), self.values.get(name, 0.0))
        self.lower[name] = max(least, self.lower.get(name, 0.0))

    def leave(self, names: Iterable[str], why: str) -> None:
        """Enter why signs have no value."""
        for name in names:
            self.values.pop(name, None)
            self.unseen.setdefault(name, why)

    def followed_a_stand_in(self, stand_in: bool) -> None:
        """Enter whether gradients are those of a stand-in: chance does not excuse that Square broke more."""
        if not stand_in or self.values.get("incorrect_gradient", 0.0) > SIGNS["incorrect_gradient"].limit:
            return
        if "square" in self.values:
            self.count("square", round(self.values["square"] * self.right), self.right)
        if not self.searched and self.lower.get("square", 0.0) <= SIGNS["square"].limit:
            self.leave(["square"], STAND_IN)

    def ended(self, samples: int = 0, forwards: int = 0, backwards: int = 0) -> Indicators:
        values = {name: self.values[name] for name in SIGNS if name in self.values}
        lower = {name: end for name, end in self.lower.items() if name in values}
        signs = Indicators(values, self.unseen, samples, forwards, backwards, lower)
        return replace(signs, remarks=[INCOMPLETE] * (self.rises and not signs.flagged))


def _by_attacks(evidence: Sequence[Evidence], right: Tensor) -> _Signs:
    """Return what the attacks say by themselves."""
    count, searched = int(right.sum()), any(attack.searched(right) for attack in evidence)
    signs = _Signs(count, searched)
    by_gradient = [attack for attack in evidence if attack.gradient]
    if not by_gradient:
        signs.leave(["square"], "no gradient attack")
        return signs
    signs.count("zero_gradient", max(int((attack.unmoved & right).sum()) for attack in by_gradient), count)
    strongest = max(by_gradient, key=lambda attack: (int(attack.broken.sum()), not attack.soft))
    if strongest.soft:
        signs.leave(["square"], SOFT_LOGITS)
        return signs
    signs.rises = count >= probes.SAMPLES and _still_rises(by_gradient, right)
    searches = [attack for attack in evidence if not attack.gradient]
    if searches:
        seeing, blind = broken_by(by_gradient, len(right)), broken_by(searches, len(right))
        alone, lost = (int((one & right).sum()) for one in (blind & ~seeing, seeing & ~blind))
        signs.count("square", alone, count, at_least_alone(alone, lost, count))
    return signs


def _still_rises(by_gradient: Sequence[Evidence], right: Tensor) -> bool:
    """Return whether of the losses of what holds more than `RISES` came at the end, over all samples."""
    held = right & ~broken_by(by_gradient, len(right))
    rises = torch.stack([attack.unfinished for attack in by_gradient])[:, held]
    # An attack that came to its end counts before others.
    rise = torch.where(rises.isnan(), torch.inf, rises).amin(0)
    return float(rise[rise.isfinite()].sum()) > RISES * int(right.sum())
