"""The nets and sets of the pipeline: made once, in a folder, and from then on read from it."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import rng
from fastadv.data import ConstructedSet, ImageSet
from fastadv.data.shards import INDEX
from fastadv.studies.ilyas2019.plan import TABLE, Architecture, Settings, Training
from fastadv.studies.ilyas2019.sets import KINDS, build
from fastadv.studies.study import Watch


class Maker:
    """Makes what is asked for by name, unless it lies in `folder` already; what was begun there goes on.

    What lies there is compared with what would be made: InputError, naming the difference, where a net or a
    set comes from other settings, images or nets, or from another seed.
    """

    def __init__(
        self,
        settings: Settings,
        base: ImageSet,
        test: ImageSet,
        folder: Path,
        watch: Watch,
        device: torch.device | None = None,
    ) -> None:
        self.settings, self.base, self.test = settings, base, test
        self.folder, self.watch, self.device = folder, watch, device
        self._nets: dict[str, nn.Module] = {}
        self._sets: dict[str, ConstructedSet] = {}

    def net_folder(self, name: str) -> Path:
        """Return where the net `name` lies."""
        return self.folder / "nets" / re.sub(r"[^\w-]+", "_", name)

    def set_folder(self, name: str) -> Path:
        """Return where the set `name` lies."""
        return self.folder / "sets" / name

    def has_net(self, name: str) -> bool:
        """Return whether a net of that name was trained to the end."""
        return (self.net_folder(name) / "model.safetensors").exists()

    def has_set(self, name: str) -> bool:
        """Return whether a set of that name is complete."""
        return (self.set_folder(name) / INDEX).exists()

    def net(self, name: str) -> nn.Module:
        """Return the net of that name: standard, adversarial, independent, or taught by the set of that
        name.
        """
        s = self.settings
        if name in KINDS:
            return self.taught(name, self.set(name), TABLE.get(name, Training()))
        recipe: fa.train.Recipe = fa.train.Standard()
        if name == "adversarial":
            threat = fa.L2(s.train_radius)
            recipe = fa.train.PGDTraining(
                threat, steps=s.train_steps, step_size=s.train_radius / 5, random_start=False
            )
        return self.taught(name, self.base, Training(), recipe=recipe)

    def taught(
        self,
        name: str,
        images: ImageSet,
        training: Training,
        *,
        architecture: Architecture | None = None,
        recipe: fa.train.Recipe | None = None,
    ) -> nn.Module:
        """Return a net trained on `images`, from first weights of its own, in eval mode."""
        if name not in self._nets:
            s = self.settings
            seed = rng.derive(s.seed, f"net {name}")
            model = (architecture or s.architecture).create(self.test, seed)
            fa.train.fit(
                model,
                images,
                fa.train.Standard() if recipe is None else recipe,
                epochs=training.epochs or s.epochs,
                run_dir=self.net_folder(name),
                resume=True,
                batch_size=s.batch_size,
                learning_rate=training.learning_rate,
                optimization=fa.train.Optimization(schedule=training.schedule),
                augment=s.augment if training.augmented else None,
                execution=fa.train.Execution(precision=s.precision),
                seed=seed,
                device=self.device,
                progress=partial(self.watch, f"training {name}"),
            )
            self._nets[name] = model.eval()
        return self._nets[name]

    def set(self, name: str) -> ConstructedSet:
        """Return the constructed set of that name."""
        if name not in self._sets:
            s = self.settings
            source = fa.freeze(self.net(KINDS[name].source), precision=_search(s.precision))
            self._sets[name] = build(
                name,
                source,
                self.base,
                **s.budget(name),
                seed=s.seed,
                out_dir=self.set_folder(name),
                progress=partial(self.watch, f"building {name}"),
            )
        return self._sets[name]

    def past(self, name: str) -> dict[str, Any]:
        """Return how the training of the net `name` went."""
        reports = fa.train.reports(self.net_folder(name))
        seconds = sum(report.seconds for report in reports)
        return {"epochs": len(reports), "loss": reports[-1].loss, "seconds": seconds}


def read(model: nn.Module, images: ImageSet) -> Tensor:
    """Return [N], the class that the net sees in each image, on the CPU."""
    frozen, device = fa.freeze(model), next(model.parameters()).device
    batches = fa.data.batches(images, 512)
    return torch.cat([frozen.verdict(x.to(device)).argmax(1).cpu() for x, _, _ in batches])


def _search(precision: str) -> Any:
    """Return the precision of a search, for that of training: tensor cores in TF32 serve training alone."""
    return "bf16" if precision == "bf16" else "fp32"
