"""The nets and sets of the pipeline: made once, in a folder, and from then on read from it."""

import re
from collections import ChainMap, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import rng
from fastadv.data import ConstructedSet, ImageSet
from fastadv.errors import InputError
from fastadv.files import load_tensors, save_tensors
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
            net = self.net(KINDS[name].source)
            source = fa.freeze(net, "bf16" if s.precision == "bf16" else "fp32")  # TF32 is for training
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


PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
LARGEST = 15 * 2**20  # bytes of the tensors of a part, unless a single one has more


def split_weights(path: Path, folder: Path, name: str, largest: int = LARGEST) -> None:
    """Write the weights in `path` as NAME-00001-of-00003.safetensors and so on, each with their card."""
    tensors, metadata = load_tensors(path)
    parts = list[dict[str, Tensor]]()
    for key, tensor in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        room = (part for part in parts if sum(t.nbytes for t in (tensor, *part.values())) <= largest)
        if (part := next(room, None)) is None:
            parts.append(part := {})
        part[key] = tensor
    for k, part in enumerate(parts):
        save_tensors(folder / part_name(name, k, len(parts)), part, metadata)


def find_parts(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the parts of weights in folders, by name; InputError where one is missing or there twice."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((path for folder in folders for path in folder.iterdir()), key=lambda path: path.name):
        if part := PART.fullmatch(path.name):
            found[part[1]].append(path)
    if not found:
        raise InputError("folders: expected parts of weights, NAME-00001-of-00003.safetensors, got none")
    for name, paths in found.items():
        total = int(paths[-1].stem[-5:])
        if [path.name for path in paths] != [part_name(name, k, total) for k in range(total)]:
            listed = ", ".join(map(str, paths))
            raise InputError(f"folders: expected each of {total} parts of {name} once, got {listed}")
    return found


def part_name(name: str, place: int, total: int) -> str:
    return f"{name}-{place + 1:05d}-of-{total:05d}.safetensors"


def join_weights(parts: Sequence[Path], path: Path) -> None:
    """Write the weights of all parts as one file; InputError where they are not of one model."""
    tensors, cards = zip(*map(load_tensors, parts), strict=True)
    if any(card != cards[0] for card in cards):
        raise InputError(f"{parts[0]}: expected parts of the same weights, got others beside it")
    save_tensors(path, dict(ChainMap(*tensors)), cards[0])
