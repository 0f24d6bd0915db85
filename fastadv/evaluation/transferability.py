"""How often the adversarial examples of some models fool others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv._checks import knowing
from fastadv.attacks.core.card import name_of
from fastadv.attacks.core.common import planned
from fastadv.attacks.methods.claims import is_own
from fastadv.attacks.methods.inner import check_attack
from fastadv.attacks.transfer import logits_of
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.data.sampling import first_samples, sample_count
from fastadv.engine import Model, Prepared, prepare
from fastadv.errors import InputError
from fastadv.intervals import Interval, clopper_pearson
from fastadv.measure.attacks import named
from fastadv.measure.bound import Attack, takes, threat_of
from fastadv.measure.job import check_evaluation
from fastadv.measure.outcome import by_ids
from fastadv.measure.reading import boxes_of
from fastadv.text import Cells, Printable, percent, threat_text, with_interval
from fastadv.threat import Named, Threat

Models = Mapping[str, Model | Prepared]


@dataclass(frozen=True, eq=False)
class Transferability(Printable):
    """How often examples of each source fool each target; `print` shows the table.

    Attributes:
        sources: names of the models that were attacked, S of them.
        targets: names of the models that classified the examples, T of them.
        fooled: int64 [S, T]; samples that the target gets right without the attack, and wrong with it.
        right: int64 [T]; samples that the target gets right without the attack.
        failed: int64 [S]; samples on which the source has no finite logits. They stay as they are.
        samples: of the data.
        attack: its name.
        misread: int64 [S]; samples that the source gets wrong. They stay as they are, too.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    fooled: Tensor
    right: Tensor
    failed: Tensor
    samples: int
    attack: str
    misread: Tensor

    @property
    def success(self) -> Tensor:
        """float64 [S, T], the share of what the target gets right; NaN where that is nothing."""
        return self.fooled / self.right.double()

    @property
    def interval(self) -> Interval:
        """The exact 95% interval of each share, as two arrays [S, T]; from 0 to 1 where there is no share."""
        columns = zip(self.fooled.T.numpy(), self.right.tolist(), strict=True)
        none = [np.zeros(len(self.sources)), np.ones(len(self.sources))]
        ends = [clopper_pearson(fooled, right) if right else none for fooled, right in columns]
        return Interval(*(np.stack(end, axis=1) for end in zip(*ends, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON; a share of nothing is None."""
        success = [[None if share != share else share for share in row] for row in self.success.tolist()]
        lists = {name: getattr(self, name).tolist() for name in ("fooled", "right", "failed", "misread")}
        return vars(self) | lists | {"success": success, "interval": [end.tolist() for end in self.interval]}

    def contents(self) -> list[str | Cells]:
        lines = [["source", *self.targets]]
        for name, *row in zip(self.sources, self.success.tolist(), *self.interval, strict=True):
            cells = zip(*row, strict=True)
            lines.append([name, *(with_interval(percent, share, ends) for share, *ends in cells)])
        lines.append(["right before", *(f"{right} of {self.samples}" for right in self.right.tolist())])
        stay = {"has no finite logits on": self.failed, "misreads": self.misread}
        left = [
            f"{name} {why} {count} of {self.samples} samples, which attacks leave as they are: not fooled"
            for why, counts in stay.items()
            for name, count in zip(self.sources, counts.tolist(), strict=True)
            if count
        ]
        about = (
            f"{self.attack}: share fooled of what each target gets right, with exact 95% intervals; "
            "examples as the attack returned them, not rounded to 8 bits"
        )
        return [lines, about, *left]


@knowing
def transferability(
    sources: Models, targets: Models, data: Data, attack: Attack | str, *, batch_size: int = 256,
    limit: int | None = None, threat: Threat | None = None,
) -> Transferability:  # fmt: skip
    """Attack each source once, and let each target classify its adversarial examples.

    A model among both is also attacked itself. A sample that a source gets wrong stays as it is, and so does
    one on which it has no finite logits; where a target has none, it is neither right nor fooled. Nothing is
    rounded to 8 bits.

    Args:
        sources: the models to attack by name, a `fastadv.models.Ensemble` among them.
        targets: the models to fool by name, with the classes of the sources.
        data: as in `evaluate`.
        attack: untargeted, and best without `stop_early`, as partial(fa.attacks.mim, threat=fa.Linf(8 / 255),
            stop_early=False); called as attack(source, x, y, ids=ids), or without ids if it takes none. Or a
            name with arguments, as "mim:stop_early=false".
        batch_size: samples attacked at once.
        limit: use this many samples only; None uses all.
        threat: of an attack that has none bound to it.

    Returns:
        A `Transferability`.

    Raises:
        InputError: models are no mapping or an empty one, the attack is no function or returns no x_adv like
            x, or one of the errors of `evaluate`.

    Example:
        >>> from functools import partial
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> nets = {kind: fa.models.create(kind, shape=digits.shape) for kind in ("softmax", "small_cnn")}
        >>> attack = partial(fa.attacks.mim, threat=fa.Linf(0.2), stop_early=False)
        >>> fa.transferability(nets, nets, digits, attack, limit=50).success.shape
        torch.Size([2, 2])
    """
    if isinstance(attack, str) or threat is not None:
        (attack,) = named([attack], threat).values()
    check_attack(attack)
    for name, models in (("sources", sources), ("targets", targets)):
        if not isinstance(models, Mapping) or not models:
            raise InputError(f"{name}: expected models by name, as {{'resnet': model}}, got {models!r}")
    dataset = as_dataset(data)
    check_evaluation(dataset, batch_size, limit)
    sizes = sample_count(dataset), sample_count(dataset, limit)
    order, box = first_samples(dataset, limit), boxes_of({"": attack}, dataset=dataset)
    made = {name: prepare(net, work=planned(attack) * len(order)) for name, net in sources.items()}
    asked = {name: prepare(net) for name, net in targets.items()}
    right = torch.zeros(len(asked), dtype=torch.int64, device="cpu")
    failed, misread = right.new_zeros(len(made)), right.new_zeros(len(made))
    fooled = right.repeat(len(made), 1)
    for x, y, ids in batches(dataset, batch_size, order=order, box=box):
        before, says = _decided(asked, x) == y.cpu(), _decided(made, x, "sources")
        right += before.sum(1)
        usable = says >= 0
        failed += (~usable).sum(1)
        misread += (usable & (says != y.cpu())).sum(1)
        for row, kept, source in zip(fooled, usable, made.values(), strict=True):
            after = _decided(asked, _attacked(attack, sizes, source, kept, x, y, ids))
            row += (before & (after != y.cpu()) & (after >= 0)).sum(1)
    return Transferability((*made,), (*asked,), fooled, right, failed, len(order), name_of(attack), misread)


def _attacked(
    attack: Attack, sizes: Sequence[int], source: Prepared, kept: Tensor, *batch: Tensor
) -> Tensor:  # fmt: skip
    """Return the x of a batch (x, y, ids) with adversarial examples of those that are `kept` bool [B]."""
    x, y, ids = (one[kept].to(source.device) for one in batch)
    if not len(x):
        return batch[0]
    attack = by_ids(attack, x, ids, sizes)
    out: Any = attack(source, x, y, **({"ids": ids} if takes(attack, "ids") else {}))
    x_adv = getattr(out, "x_adv", out)
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or not x_adv.is_floating_point():
        got = f"{x_adv.dtype} {list(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise InputError(
            f"attack: expected an AttackResult, or x_adv, a floating tensor {list(x.shape)} like x, got "
            f"{got}; return an image in the box for each that came"
        )
    threat = threat_of(attack)
    if threat is not None and is_own(attack) and not isinstance(threat, Named):
        far = int((~threat.holds(x_adv.detach().to(x), x)).sum())
        if far:
            raise InputError(
                f"attack: expected points in {threat_text(threat)}, got {far} of {len(x)} outside"
            )
    return batch[0].index_put((kept,), x_adv.detach().to(batch[0]))


def _decided(models: Mapping[str, Prepared], x: Any, which: str = "targets") -> Tensor:
    """Return int64 [T, B], the class for which each model decides; -1 without finite logits."""
    rows = []
    for model in models.values():
        logits = logits_of(model, x.to(model.device), which)
        rows.append(logits.argmax(1).where(logits.isfinite().all(1), -1).cpu())
    return torch.stack(rows)
