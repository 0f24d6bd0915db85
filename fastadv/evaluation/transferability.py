"""How often the adversarial examples of some models fool others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv.attacks.core.common import planned
from fastadv.attacks.methods.inner import check_attack
from fastadv.data._batches import batches
from fastadv.data.given import Data, as_dataset
from fastadv.data.sampling import first_samples
from fastadv.engine import Model, Prepared, prepare
from fastadv.errors import InputError
from fastadv.evaluation.job import check_evaluation
from fastadv.evaluation.named import Attack, boxes_of, name_of
from fastadv.intervals import Interval, clopper_pearson
from fastadv.text import aligned, percent, with_interval

Models = Mapping[str, Model | Prepared]


@dataclass(frozen=True, eq=False)
class Transferability:
    """How often examples of each source fool each target; `print` shows the table.

    Attributes:
        sources: names of the models that were attacked, S of them.
        targets: names of the models that classified the examples, T of them.
        fooled: int64 [S, T]; samples that the target gets right without the attack, and wrong with it.
        right: int64 [T]; samples that the target gets right without the attack.
        samples: of the data.
        attack: its name.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    fooled: Tensor
    right: Tensor
    samples: int
    attack: str

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
        lists = {"fooled": self.fooled.tolist(), "right": self.right.tolist(), "success": success}
        return vars(self) | lists | {"interval": [end.tolist() for end in self.interval]}

    def __str__(self) -> str:
        lines = [["source", *self.targets]]
        for name, *row in zip(self.sources, self.success.tolist(), *self.interval, strict=True):
            cells = zip(*row, strict=True)
            lines.append([name, *(with_interval(percent, share, ends) for share, *ends in cells)])
        lines.append(["right before", *(f"{right} of {self.samples}" for right in self.right.tolist())])
        return (
            f"{aligned(lines)}\n{self.attack}: share fooled of what each target gets right, with exact 95% "
            "intervals; examples as the attack returned them, not rounded to 8 bits"
        )


def transferability(
    sources: Models, targets: Models, data: Data, attack: Attack, *, batch_size: int = 256,
    limit: int | None = None,
) -> Transferability:  # fmt: skip
    """Attack each source once, and let each target classify its adversarial examples.

    A model among both is also attacked itself. A sample that a source gets wrong stays as it is, and one
    without finite logits is neither right nor fooled. Nothing is rounded to 8 bits.

    Args:
        sources: the models to attack by name, a `fastadv.models.Ensemble` among them.
        targets: the models to fool by name, with the classes of the sources.
        data: as in `evaluate`.
        attack: untargeted, and best without `stop_early`, as partial(fa.attacks.mim, threat=fa.Linf(8 / 255),
            stop_early=False); called as attack(source, x, y, ids=ids).
        batch_size: samples attacked at once.
        limit: use this many samples only; None uses all.

    Returns:
        A `Transferability`.

    Raises:
        InputError: models are no mapping or an empty one, the attack is no function, or one of the errors of
            `evaluate`.

    Example:
        >>> from functools import partial
        >>> import fastadv as fa
        >>> digits = fa.data.load("digits", "test")
        >>> nets = {kind: fa.models.create(kind, shape=digits.shape) for kind in ("softmax", "small_cnn")}
        >>> attack = partial(fa.attacks.mim, threat=fa.Linf(0.2), stop_early=False)
        >>> fa.transferability(nets, nets, digits, attack, limit=50).success.shape
        torch.Size([2, 2])
    """
    check_attack(attack)
    for name, models in (("sources", sources), ("targets", targets)):
        if not isinstance(models, Mapping) or not models:
            raise InputError(f"{name}: expected models by name, as {{'resnet': model}}, got {models!r}")
    dataset = as_dataset(data)
    check_evaluation(dataset, batch_size, limit)
    order, box = first_samples(dataset, limit), boxes_of({"": attack}, dataset=dataset)
    made = {name: prepare(net, work=planned(attack) * len(order)) for name, net in sources.items()}
    asked = {name: prepare(net) for name, net in targets.items()}
    right = torch.zeros(len(asked), dtype=torch.int64, device="cpu")
    fooled = right.repeat(len(made), 1)
    for x, y, ids in batches(dataset, batch_size, order=order, box=box):
        before = _decided(asked, x, ids) == y.cpu()
        right += before.sum(1)
        for row, source in zip(fooled, made.values(), strict=True):
            x, y, ids = (tensor.to(source.device) for tensor in (x, y, ids))
            out = attack(source, x, y, ids=ids)
            after = _decided(asked, getattr(out, "x_adv", out), ids)
            row += (before & (after != y.cpu()) & (after >= 0)).sum(1)
    return Transferability((*made,), (*asked,), fooled, right, len(order), name_of(attack))


def _decided(models: Mapping[str, Prepared], x: Any, ids: Tensor) -> Tensor:
    """Return int64 [T, B], the class for which each model decides; -1 without finite logits."""
    rows = []
    for model in models.values():
        seen = x.to(model.device)
        logits = model.of(seen, ids.to(model.device)).verdict(seen)
        rows.append(logits.argmax(1).where(logits.isfinite().all(1), -1).cpu())
    return torch.stack(rows)
