"""The work of the study, batch by batch; each batch is kept in the run's folder as soon as it is done."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastadv as fa
from fastadv import rng
from fastadv.data import ImageSet, batches
from fastadv.hashes import data_hash, seal
from fastadv.runs.identity import check_same, plain
from fastadv.runs.work import Keeper, Kept
from fastadv.threat import THREATS
from papers.schott2018.plan import NORMS, Cell
from papers.schott2018.subjects import SUBSTITUTE, Subject, Subjects

# tried where the published model denies what a search on a faster one found
LONGER = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5)
TENSORS = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Images:
    """The images under attack: x [N, C, H, W], y [N], and their numbers in the data set, ids [N]."""

    x: Tensor
    y: Tensor
    ids: Tensor

    @classmethod
    def drawn(cls, dataset: ImageSet, count: int, seed: int, device: torch.device) -> "Images":
        """Return `count` images drawn without repetition; a larger count begins with the same ones."""
        order = rng.permutation(len(dataset), rng.derive(seed, "images of the study"))[:count]
        x, y, ids = next(batches(dataset, len(order), order))
        return cls(x.to(device), y.to(device), ids.to(device))

    def __len__(self) -> int:
        return len(self.y)

    def part(self, start: int, stop: int) -> "Images":
        return Images(self.x[start:stop], self.y[start:stop], self.ids[start:stop])

    def describe(self) -> dict[str, str]:
        return {"images": data_hash(self.x, self.y, self.ids)}


@dataclass(frozen=True, eq=False)
class Done:
    tensors: TENSORS
    seconds: float


Tick = Callable[[int], None]  # called with the images done
Compute = Callable[[Images], TENSORS]  # what is done on a batch


@dataclass(frozen=True)
class Work:
    """Does work on the images in batches, and keeps each in a file, in a folder for each `identity`."""

    folder: Path
    images: Images
    seed: int = 0

    def do(
        self,
        name: str,
        identity: Mapping[str, Any],
        batch_size: int,
        compute: Compute,
        tick: Tick = lambda done: None,
    ) -> Done:
        """Compute every batch that is not kept yet; return the results of all, in the order of the images."""
        whole = plain({**identity, "seed": self.seed})
        short = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")
        done, folder = list[Done](), self.folder / f"{short}-{seal(whole)[:8]}"
        with Keeper(folder) as keeper:
            for start in range(0, len(self.images), batch_size):
                part = self.images.part(start, start + batch_size)
                file = f"{start:05d}-{start + len(part):05d}.safetensors"
                kept = keeper.part(file, seal(whole))
                if kept is None:
                    kept = _timed(compute, part)
                    keeper.keep(file, seal(whole), *kept)
                tensors, about = kept
                images = part.describe()  # a part of other images must not be lost
                check_same(folder / file, {name: about[name] for name in images}, images)
                done.append(Done(tensors, about["seconds"]))
                tick(start + len(part))
        return Done(
            {key: torch.cat([part.tensors[key] for part in done]) for key in done[0].tensors},
            sum(part.seconds for part in done),
        )


def _timed(compute: Compute, part: Images) -> Kept:
    began = time.perf_counter()
    tensors = {key: value.cpu() for key, value in compute(part).items()}  # waits for the device
    return tensors, {"seconds": time.perf_counter() - began, **part.describe()}


def attack(
    work: Work, subjects: Subjects, cell: Cell, batch_size: int, tick: Tick = lambda done: None
) -> Done:
    """Return a cell on all images: x_adv, judged as published, and its distance [N] in every norm by name."""
    subject = subjects[cell.model]
    substitute = subjects[SUBSTITUTE] if cell.transfers else None
    frozen = fa.freeze(subject.attacked(**cell.method.options))
    run = cell.attack(work.seed, None if substitute is None else substitute.model)

    def compute(images: Images) -> TENSORS:
        return proved(subject, images, run(frozen, images.x, images.y, ids=images.ids).x_adv)

    known = substitute and substitute.identity
    identity = {"model": subject.identity, "substitute": known, "cell": cell.describe()}
    return work.do(cell.name, identity, batch_size, compute, tick)


def snap(x: Tensor, x_adv: Tensor, threshold: float) -> Tensor:
    """Return the points nearest to x whose coordinates lie on the sides of the threshold where x_adv's do."""
    at = torch.tensor(threshold, dtype=x.dtype, device=x.device)
    below, above = at.nextafter(torch.full_like(at, -torch.inf)), x_adv >= threshold
    return torch.where((x >= threshold) == above, x, torch.where(above, at, below))


def bound(work: Work, subject: Subject, norm: str, batch_size: int) -> Done:
    """Return radius [N] within which an ABS keeps its decision; the tight form of the bound."""
    assert isinstance(subject.model, fa.models.ABS)
    search = subject.model.lower_bound

    def compute(images: Images) -> TENSORS:
        return {"radius": search(images.x, images.y, norm=norm, tight=True)}  # type: ignore[arg-type]

    identity = {"model": subject.identity, "bound": norm}
    return work.do(f"{subject.name} {norm} bound", identity, batch_size, compute)


def proved(subject: Subject, images: Images, attacked: Tensor) -> TENSORS:
    """Return x_adv and its distances [B] of the points `attacked`, judged by the model as published."""
    x, y = images.x, images.y
    exact = fa.freeze(subject.model)
    threshold = getattr(subject.model, "input_threshold", None)  # where a binary model sets pixels to 0 or 1

    def wrong(points: Tensor, labels: Tensor) -> Tensor:
        logits = exact.verdict(points)
        return (logits.argmax(1) != labels) & logits.isfinite().all(1)

    already = wrong(x, y)
    x_adv, distance = x.clone(), torch.where(already, 0.0, torch.inf)
    distances = {norm: distance.clone() for norm in NORMS}
    todo = (~already & (attacked != x).flatten(1).any(1)).nonzero().squeeze(1)
    for share in LONGER if subject.fast else LONGER[:1]:
        if not len(todo):
            break
        clean, far = x[todo], attacked[todo]
        points = far if share == 1 else (clean + share * (far - clean)).clamp(0, 1)
        # a binary model sees the same image where a pixel goes back to x, or to the threshold that it crossed
        points = points if threshold is None else snap(clean, points, threshold)
        broken = wrong(points, y[todo])
        x_adv[todo[broken]] = points[broken]
        for norm, known in distances.items():
            threat = THREATS[norm](torch.inf)
            known[todo[broken]] = threat.distance(points[broken], clean[broken]).float()
        todo = todo[~broken]
    return {"x_adv": x_adv, **distances}
