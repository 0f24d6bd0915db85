"""The models of the paper: the authors' published weights, nearest neighbors, and a net trained here."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.hashes import data_hash
from papers.study import Watch, load_images, unit, unwatched

STEPS, BATCH_SIZE, LEARNING_RATE = 7, 64, 0.002  # of the Madry net's training
CHECKPOINT_EVERY = 200  # steps, about 15 seconds
RAMP = (
    ("ramp1", 0.1, 0.033, 1, "constant"),
    ("ramp2", 0.2, 0.066, 1, "constant"),
    ("robust", 0.3, 0.1, 8, "cosine"),
)
"""The runs of its training: name, radius, step size, epochs and schedule."""


def train_madry(
    train_set: Any, folder: Path, watch: Watch, seed: int = 0, device: torch.device | None = None
) -> nn.Module:
    """Return the trained net. Each run has a folder of its own in `folder`, and is not done again there."""
    model = fa.models.WongCNN(tuple(train_set.shape), train_set.num_classes, seed=seed)
    for name, radius, step_size, epochs, schedule in RAMP:
        recipe = fa.train.PGDTraining(fa.Linf(radius), steps=STEPS, step_size=step_size)
        fa.train.fit(
            model, train_set, recipe, epochs=epochs, run_dir=folder / name, resume=True, optimizer="adam",
            learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, seed=seed, device=device,
            optimization=fa.train.Optimization(weight_decay=0.0, schedule=schedule),
            execution=fa.train.Execution(checkpoint_every=CHECKPOINT_EVERY),
            progress=partial(watch, f"training the Madry net, {name}"),
        )  # fmt: skip
    return model.eval()


STATE_DICTS = tuple(f"ABS_{k}.net" for k in range(10))
WEIGHTS = {  # the files that a model is made of, as the authors named them
    "cnn": ("vanilla_cnn.net",),
    "binary_cnn": ("binary_cnn.net",),
    "transfer_cnn": ("transfer_cnn.net",),
    "binary_abs": STATE_DICTS,
    "abs": STATE_DICTS,
}
SUBSTITUTE = "transfer_cnn"
# how ABS infers while an attack searches: in a third of the time, with nearly the same decisions; half of the
# steps, too, would lead to points that the published model denies, and to worse ones
SEARCH = {"precision": "bf16", "prune": True}


class NearestNeighbor(nn.Module):
    """Logits [B, K], minus the L2 distance to the nearest training image of each class."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.counts = y.bincount().tolist()
        self.images: Tensor
        self.register_buffer("images", x[y.argsort(stable=True)].flatten(1).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1).to(self.images.dtype)
        nearest = []
        for own in self.images.split(self.counts):  # type: ignore[no-untyped-call]
            nearest.append(own[torch.cdist(rows.detach(), own).argmin(1)])
        logits: Tensor = -(rows[:, None] - torch.stack(nearest, 1)).norm(dim=2)
        return logits


@dataclass(frozen=True, eq=False)
class Subject:
    """A model under attack, as published; `fast`: attacks see an ABS that infers faster."""

    name: str
    model: nn.Module
    fast: bool = False

    def attacked(self, **options: Any) -> nn.Module:
        """Return the model that an attack sees, with these options of InferenceOptions where it is fast."""
        if not self.fast:
            return self.model
        assert isinstance(self.model, fa.models.ABS)
        return self.model.with_options(**{**SEARCH, **options})

    @cached_property
    def identity(self) -> Any:
        found: dict[str, Any] = {"name": self.name, "weights": data_hash(*self.model.state_dict().values())}
        for what, model in (("model", self.model), ("search", self.attacked())):
            if isinstance(model, fa.models.ABS):
                found[what] = asdict(model.options)
        return found


class Subjects:
    """The models by name, each made when it is first asked for; `official` holds the authors' state dicts."""

    def __init__(
        self,
        official: Path,
        folder: Path,
        *,
        data_dir: Path | None = None,
        device: torch.device | None = None,
        seed: int = 0,
        watch: Watch = unwatched,
    ) -> None:
        self.official, self.folder, self.data_dir = official, folder, data_dir
        self.device, self.seed, self.watch = device or torch.device("cpu"), seed, watch
        self._made: dict[str, Subject] = {}

    def check(self, names: Iterable[str]) -> None:
        """InputError, naming the files, where those of a model are missing."""
        wanted = {self.official / file for name in names for file in WEIGHTS.get(name, ())}
        missing = sorted(str(path) for path in wanted if not path.is_file())
        if missing:
            told = f"expected the files of bethgelab/AnalysisBySynthesis, got no {', no '.join(missing)}"
            raise InputError(f"weights: {told}")

    def __getitem__(self, name: str) -> Subject:
        if name not in self._made:
            make = getattr(self, f"_{name}", None)
            self._made[name] = Subject(name, self._published(name)) if make is None else make()
        return self._made[name]

    def _published(self, name: str) -> nn.Module:
        return fa.models.SchottCNN.from_official(self.official / WEIGHTS[name][0]).to(self.device)

    def _nearest_neighbor(self) -> Subject:
        images = self._train_set()
        return Subject("nearest_neighbor", NearestNeighbor(unit(images.x), images.y).to(self.device))

    def _madry(self) -> Subject:
        given = self._train_set(), self.folder / "madry", self.watch, self.seed, self.device
        return Subject("madry", train_madry(*given))

    def _abs(self) -> Subject:
        model = fa.models.ABS.from_official(self.official, seed=self.seed).to(self.device)
        return Subject("abs", model, fast=True)

    def _binary_abs(self) -> Subject:
        plain = self["abs"].model
        assert isinstance(plain, fa.models.ABS)
        return Subject("binary_abs", plain.with_options(binary=True), fast=True)  # the bank is shared

    def _train_set(self) -> ImageSet:
        return load_images("mnist", "train", data_dir=self.data_dir)
