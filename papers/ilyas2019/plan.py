"""What the pipeline runs at each scale: sets, networks and their training; and what the paper reports."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

import fastadv as fa
from fastadv.data import ConstructedSet, ImageSet, construct
from fastadv.data.construct import CIFAR10_PAPER
from fastadv.runs.identity import plain
from papers.study import some_of


@dataclass(frozen=True)
class Kind:
    """A set: the net that it is made with, the construction in `fa.data.construct`, and what to say of it."""

    source: str
    construction: str
    remark: str
    options: Mapping[str, Any] = field(default_factory=dict)
    near: bool = False

    @property
    def inverts(self) -> bool:
        """Whether a representation is inverted; otherwise images are pushed towards a class."""
        return self.construction in ("robust", "non_robust")


NOISE = {"start": "noise"}
NEAR = float(CIFAR10_PAPER["d_rand"]["threat"].radius)
KINDS = {
    "D_R": Kind("adversarial", "robust", "robust features kept"),
    "D_R_noise": Kind("adversarial", "robust", "the same, from noise", NOISE),
    "D_NR": Kind("standard", "non_robust", "non-robust features kept"),
    "D_NR_noise": Kind("standard", "non_robust", "the same, from noise", NOISE),
    "D_rand": Kind("standard", "random_target", "random label"),
    "D_det": Kind("standard", "fixed_shift", "next label"),
    f"D_rand at L2 {NEAR:g}": Kind("standard", "random_target", "random label", near=True),
    f"D_det at L2 {NEAR:g}": Kind("standard", "fixed_shift", "next label", near=True),
}
SETS = ("D_R", "D_NR", "D_rand", "D_det")  # of the paper's main text


def build(
    name: str, source: nn.Module | fa.Frozen, base: ImageSet, settings: Any, **options: Any
) -> ConstructedSet:
    """Return the set `name` made with `source`, with the budget and seed of the settings."""
    kind, s = KINDS[name], settings
    spent: dict[str, Any] = {"steps": s.invert_steps, "step_size": s.invert_step_size}
    if not kind.inverts:
        radius = NEAR if kind.near else s.push_radius
        step_size = s.push_step_size * radius / s.push_radius
        spent = {"threat": fa.L2(radius), "steps": s.push_steps, "step_size": step_size}
    make = getattr(construct, kind.construction)
    made: ConstructedSet = make(source, base, **kind.options, **spent, seed=s.seed, **options)
    return made


def adversary(settings: Any) -> fa.train.PGDTraining:
    radius = settings.train_radius
    return fa.train.PGDTraining(
        fa.L2(radius), steps=settings.train_steps, step_size=radius / 5, random_start=False
    )


CHAINS = (("standard", "D_rand", "D_det"), ("adversarial", "D_R", "D_NR"))  # of the paper's main text
STAGES = ("nets", "sets", "train", "evaluate", "galleries", "controls", "transfer")
LAST = ("controls", "transfer")  # which need all nets and sets
SOURCES = ("standard", "adversarial")
NETS = "papers.ilyas2019.nets"


@dataclass(frozen=True)
class Architecture:
    """A model of `fa.models` with its options, by the name that tables show."""

    title: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A line of the paper's table of training (appendix C): SGD, momentum 0.9, weight decay 5e-4."""

    learning_rate: float = 0.1
    augmented: bool = True  # by the augmentation of the scale
    schedule: str | None = None  # None: that of the scale
    epochs: int | None = None  # None: those of the scale


# where the paper trains otherwise than on the images themselves; for few epochs: augmented, D_rand then
# teaches nothing, and at rate 0.1 only by chance
TABLE = {"random_target": Training(learning_rate=0.01), "fixed_shift": Training(augmented=False)}
FEW_EPOCHS = TABLE | {"random_target": Training(learning_rate=0.01, augmented=False)}


@dataclass(frozen=True)
class Settings:
    """All that the pipeline depends on. Radii and step sizes are L2, in input units, images in [0, 1]."""

    scale: str
    data: str
    architecture: Architecture  # of the nets that sets are made with and taught to
    others: tuple[Architecture, ...]  # for transfer
    size: int | None = None  # of the images, where they are resized
    images: int | None = None  # None: all
    inverted: int | None = None  # the first images, of which the inverted sets are made, None: all
    tested: int | None = None  # test images under attack, None: all
    epochs: int = 150
    batch_size: int = 128
    augment: str | None = "crop_flip"
    schedule: str = "step"
    precision: str = "fp32"
    train_radius: float = 0.5
    train_steps: int = 7
    invert_steps: int = CIFAR10_PAPER["d_r"]["steps"]
    invert_step_size: float = CIFAR10_PAPER["d_r"]["step_size"]
    push_radius: float = float(CIFAR10_PAPER["d_rand"]["threat"].radius)
    push_steps: int = CIFAR10_PAPER["d_rand"]["steps"]
    push_step_size: float = CIFAR10_PAPER["d_rand"]["step_size"]
    near: bool = False  # whether D_rand and D_det are also made within the paper's own radius
    radii: tuple[float, ...] = (0.25, 0.5)
    attack_steps: int = 100
    early_epochs: int = 2  # of the net whose mistakes are a training set of their own
    training: Mapping[str, Training] = field(default_factory=lambda: TABLE)
    chains: tuple[tuple[str, ...], ...] = ()  # nets whose stages come before those of others; (): all at once
    seed: int = 0

    @property
    def sets(self) -> tuple[str, ...]:
        chosen = {name for chain in self.chains for name in chain} or KINDS
        return tuple(name for name, kind in KINDS.items() if name in chosen and (self.near or not kind.near))

    @property
    def pushed(self) -> tuple[str, ...]:
        return tuple(name for name in self.sets if not KINDS[name].inverts)

    @property
    def nets(self) -> tuple[str, ...]:
        """The nets that are attacked: those that sets are made with, and one taught by each set."""
        return (*SOURCES, *self.sets)

    def work(self, stages: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the stages in the order in which they run, each with the nets or sets that it is about."""
        chosen, about = some_of("stages", stages, STAGES), {"nets": SOURCES, "evaluate": self.nets}
        for chain in self.chains or (self.nets,):
            for stage in chosen:
                names = tuple(name for name in about.get(stage, self.sets) if name in chain)
                if names and stage not in LAST:
                    yield stage, names
        yield from ((stage, ()) for stage in chosen if stage in LAST)

    def attack(self, radius: float) -> str:
        return f"PGD L2 {radius:g}"

    def as_json(self) -> dict[str, Any]:
        return plain(asdict(self))


def on_cifar10(title: str, model: str, **options: Any) -> Architecture:
    """Return a model of `fa.models` that takes images of CIFAR-10 in [0, 1]."""
    return Architecture(title, model, {**options, "normalize": "cifar10"})


WIDE = (
    on_cifar10("small CNN", "small_cnn", width=64),
    on_cifar10("VGG-16", f"{NETS}:vgg", depth=16),
    on_cifar10("DenseNet-100", f"{NETS}:densenet", depth=100),
    on_cifar10("Inception", f"{NETS}:inception"),
    on_cifar10("WRN-16-4", "wide_resnet", depth=16, widen_factor=4),
    on_cifar10("PreAct-ResNet-18", "preact_resnet18"),
    on_cifar10("ResNet-18", "resnet18"),
)

SCALES = {
    "tiny": Settings(
        "tiny", "digits", Architecture("small CNN", "small_cnn", {"width": 8}),
        (
            Architecture("small CNN, narrow", "small_cnn", {"width": 4}),
            Architecture("small CNN", "small_cnn", {"width": 8}),
            Architecture("ResNet-18", "resnet18", {"width": 4}),
            Architecture("PreAct-ResNet-18", "preact_resnet18", {"width": 4}),
        ),
        size=10, epochs=15, batch_size=64, augment=None, train_radius=0.8, invert_steps=100, push_radius=1.2,
        push_steps=40, push_step_size=0.12, radii=(0.2, 0.4), attack_steps=20, early_epochs=1,
    ),
    "cpu": Settings(
        "cpu", "cifar10", on_cifar10("ResNet-18", "resnet18", width=16),
        (
            on_cifar10("small CNN", "small_cnn", width=32),
            on_cifar10("VGG-11", f"{NETS}:vgg", depth=11, width=16),
            on_cifar10("DenseNet-22", f"{NETS}:densenet", depth=22, growth=12),
            on_cifar10("Inception", f"{NETS}:inception", width=6),
            on_cifar10("WRN-10-2", "wide_resnet", depth=10, widen_factor=2),
            on_cifar10("PreAct-ResNet-18", "preact_resnet18", width=16),
            on_cifar10("ResNet-18, narrow", "resnet18", width=8),
            on_cifar10("ResNet-18", "resnet18", width=16),
        ),
        inverted=10_000, tested=1000, epochs=15, precision="bf16", invert_steps=150, invert_step_size=0.2,
        push_radius=1.0, push_steps=20, push_step_size=0.2, near=True, training=FEW_EPOCHS,
        chains=(*CHAINS, tuple(name for name in KINDS if name not in SETS)),
    ),
    "gpu": Settings(
        "gpu", "cifar10", on_cifar10("ResNet-18", "resnet18"), WIDE, tested=2000, epochs=20,
        schedule="one_cycle", precision="bf16", invert_steps=200, invert_step_size=0.2, training=FEW_EPOCHS,
        chains=CHAINS,
    ),
    "paper": Settings(
        "paper", "cifar10", on_cifar10("ResNet-50", "resnet50"),
        (*WIDE, on_cifar10("ResNet-50", "resnet50")),
    ),
}  # fmt: skip
"""The digits, in a minute or two; CIFAR-10 on two cores, or in minutes on a GPU; the paper's own, in days."""


SOURCE = "Ilyas et al. 2019, ResNet-50 on CIFAR-10, PGD L2 0.25"
PAPER_ATTACK = "PGD L2 0.25"
# Table 1 and figure 2; adversarial training at 0.5. D_rand and D_det have a robust accuracy of about 0 there.
PAPER = {
    "standard": {"clean": 0.9525, PAPER_ATTACK: 0.0449},
    "adversarial": {"clean": 0.9083, PAPER_ATTACK: 0.823},
    "D_R": {"clean": 0.841, PAPER_ATTACK: 0.483},
    "D_NR": {"clean": 0.877, PAPER_ATTACK: 0.008},
    "D_rand": {"clean": 0.633, PAPER_ATTACK: 0.0},
    "D_det": {"clean": 0.437, PAPER_ATTACK: 0.0},
}
# Figure 3, read off its pixels to 0.3 points: accuracy of a net taught by D_det of a ResNet-50, and how often
# adversarial examples of that ResNet-50 transfer to a net of this architecture.
TRANSFER = {
    "VGG-16": (0.279, 0.657),
    "Inception-v3": (0.394, 0.828),
    "ResNet-18": (0.409, 0.921),
    "DenseNet": (0.417, 0.927),
    "ResNet-50": (0.447, 0.987),
}


def paper(name: str) -> dict[str, float]:
    """Return what the paper reports for a net by the set that taught it, at any radius."""
    return PAPER.get(name.partition(" at ")[0], {})


def printed(share: float | None) -> str:
    """Return a share as the paper prints it; of some it says only that they are about 0."""
    if share is None:
        return "-"
    return f"{100 * share:.4g}%" if share else "~0%"
