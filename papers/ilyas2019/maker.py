"""The nets and sets of the pipeline: made once, in a folder, and from then on read from it."""

import re
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import rng
from fastadv.data import ConstructedSet, ImageSet
from papers.ilyas2019.plan import KINDS, Architecture, Settings, Training, adversary, build
from papers.study import Watch, trained

PLAIN = fa.train.Standard()


class Maker:
    """Makes what is asked for by name, unless it lies in `folder` already; what was begun there goes on."""

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

    def place(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}s" / file_name(name)

    def net(self, name: str) -> nn.Module:
        """Return the net: standard, adversarial, independent, or taught by the set of that name."""
        if name in KINDS:
            training = self.settings.training.get(KINDS[name].construction, Training())
            epochs = ceil(self.settings.epochs * len(self.base) / len(self.images(name)))
            return self.taught(name, self.set(name), replace(training, epochs=epochs))
        recipe = adversary(self.settings) if name == "adversarial" else PLAIN
        return self.taught(name, self.base, Training(), recipe=recipe)

    def taught(
        self,
        name: str,
        images: ImageSet,
        training: Training,
        *,
        architecture: Architecture | None = None,
        recipe: fa.train.Recipe = PLAIN,
    ) -> nn.Module:
        """Return a net trained on `images`, from first weights of its own, in eval mode."""
        if name not in self._nets:
            s, chosen = self.settings, architecture or self.settings.architecture
            self._nets[name] = trained(
                chosen.model, images, recipe, self.place("net", name), seed=rng.derive(s.seed, f"net {name}"),
                options=chosen.options, epochs=training.epochs or s.epochs, batch_size=s.batch_size,
                learning_rate=training.learning_rate, device=self.device,
                optimization=fa.train.Optimization(schedule=training.schedule or s.schedule),
                augment=s.augment if training.augmented else None,
                execution=fa.train.Execution(precision=s.precision),
                progress=partial(self.watch, f"training {name}"),
            )  # fmt: skip
        return self._nets[name]

    def images(self, name: str) -> ImageSet:
        count = self.settings.inverted if KINDS[name].inverts else None
        return self.base if count is None else self.base.subset(range(count))

    def set(self, name: str) -> ConstructedSet:
        if name not in self._sets:
            s = self.settings
            # tensor cores in TF32 serve training alone
            source = fa.freeze(
                self.net(KINDS[name].source), precision="bf16" if s.precision == "bf16" else "fp32"
            )
            self._sets[name] = build(
                name, source, self.images(name), s, out_dir=self.place("set", name),
                progress=partial(self.watch, f"building {name}"),
            )  # fmt: skip
        return self._sets[name]


def file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name)


def read(model: nn.Module, images: ImageSet) -> Tensor:
    """Return [N], the class that the net sees in each image, on the CPU."""
    frozen, device = fa.freeze(model), next(model.parameters()).device
    batches = fa.data.batches(images, 512)
    return torch.cat([frozen.verdict(x.to(device)).argmax(1).cpu() for x, _, _ in batches])


def share(right: Tensor, among: Tensor | None = None) -> float:
    """Return the share of True, among some of them; 0 where there are none."""
    chosen = right if among is None else right[among]
    return chosen.double().mean().item() if len(chosen) else 0.0
