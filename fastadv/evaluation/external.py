"""Adversarial images that others made, as one tensor: written for a leaderboard, and judged again."""

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from fastadv._checks import check_number
from fastadv.attacks import AttackResult, core
from fastadv.data import batches
from fastadv.data.sampling import sample_count
from fastadv.engine import Prepared, prepare
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation.measure import evaluate
from fastadv.evaluation.table import Table
from fastadv.runs.files import atomic_write, load_torch
from fastadv.threat import Threat


@dataclass(frozen=True)
class External:
    """The results of a model under external adversarial images."""

    outside: Tensor = field(repr=False)  # int64, numbers of the images that are not in the ball and the box
    distances: Tensor = field(repr=False)  # float64 [N], of all images in the threat's norm
    table: Table = field(repr=False)  # its one row is "external"

    @property
    def clean_accuracy(self) -> float:
        """Share of the clean images that are classified correctly."""
        return self.table.clean_accuracy

    @property
    def robust_accuracy(self) -> float:
        """Share classified correctly both clean and as the images; one outside the threat breaks nothing."""
        return self.table["external"].robust_accuracy


def external(
    model: nn.Module | Prepared,
    images: str | os.PathLike[str] | Tensor,
    dataset: Dataset[Any],
    threat: Threat,
    *,
    slack: float = 1e-6,
    batch_size: int = 256,
) -> External:
    """Check adversarial images that were made elsewhere.

    RobustBench's issue template "New external evaluation" asks for such images.

    Args:
        model: a module or Frozen; x [B, ...] in [0, 1] to logits [B, K].
        images: a tensor [N, ...] in [0, 1] in the order of `dataset`, or a torch file with one (read without
            running code that it may hold). The data set's first N samples are those attacked.
        dataset: of pairs (x, y), such as an `ImageSet`.
        threat: ball and box, with one radius for all.
        slack: by how much an image may leave the ball, in input units: programs round their results to
            float32.
        batch_size: images passed at once.

    Returns:
        An object with `clean_accuracy`, `robust_accuracy`, `distances` [N], `outside`, the numbers of the
        images that are outside the threat, and `table`.

    Raises:
        InputError: images have another number, shape or dtype, the file is missing, or one of the errors of
            `evaluate`.
        CorruptFileError: the file holds no tensor.
    """
    radius = check_number("threat.radius", threat.radius, 0, finite=False)
    threat = threat.with_radius(radius + check_number("slack", slack, 0))
    x_adv = images if isinstance(images, Tensor) else _read(Path(images))
    frozen = prepare(model)
    size = sample_count(dataset, (x_adv.ndim and len(x_adv)) or None)
    x, _, _ = next(batches(dataset, 1, order=[0], workers=0))
    if x_adv.shape != (size, *x.shape[1:]) or not x_adv.is_floating_point():
        raise InputError(
            f"images: expected floating [{size}, {', '.join(map(str, x.shape[1:]))}], one for each sample in "
            f"order, got {x_adv.dtype} of shape {list(x_adv.shape)}"
        )
    x_adv, dataset = x_adv.float(), _first(dataset, size)
    inside, distances = [], []
    for x, _, ids in batches(dataset, batch_size):
        given = x_adv[ids.to(x_adv.device)].to(x.device)
        inside.append(threat.contains(given, x).cpu())
        distances.append(threat.distance(given, x).cpu())
    attack = partial(_given, x_adv=x_adv, threat=threat)
    table = evaluate(frozen, dataset, {"external": attack}, batch_size=batch_size)
    outside = (~torch.cat(inside)).nonzero()[:, 0]
    return External(outside, torch.cat(distances), table)


def save_external(path: str | os.PathLike[str], x_adv: Tensor) -> None:
    """Write adversarial images as RobustBench asks for them: one float32 tensor in a torch file."""
    with atomic_write(path) as part:
        torch.save(x_adv.detach().cpu().float().contiguous().clone(), part)


def _first(dataset: Any, size: int) -> Dataset[Any]:
    """Return the first samples; the limit of an evaluation draws others where the set is sorted."""
    if size == len(dataset):
        return dataset  # type: ignore[no-any-return]
    return dataset.subset(range(size)) if hasattr(dataset, "subset") else Subset(dataset, range(size))


def _given(
    model: core.Classifier, x: Tensor, y: Tensor, *, ids: Tensor, x_adv: Tensor, threat: Threat
) -> AttackResult:
    """Attack with images that are there: the rule has nothing to search."""

    def rule(search: core.Search) -> None:
        search.finish(x_adv[search.ids.to(x_adv.device)].to(search.x))

    return core.run(model, x, y, threat, rule, ids=ids)


def _read(path: Path) -> Tensor:
    if not path.is_file():
        raise InputError(f"images: expected a torch file, got none at {path}; check its name")
    content = load_torch(path, "a torch file with a tensor", "get it again")
    if not isinstance(content, Tensor):
        raise CorruptFileError(
            f"{path}: expected a torch file with one tensor of images, got {type(content).__name__}; "
            "save the tensor alone"
        )
    return content
