"""What the pipeline runs at each scale: nets and their training, and the budgets of sets."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastadv._checks import check_count, check_number, check_seed
from fastadv.data.construct.paper import CIFAR10_PAPER
from fastadv.errors import InputError
from fastadv.evaluation.curve import check_radii
from fastadv.runs.identity import plain
from fastadv.studies.ilyas2019.sets import KINDS

STAGES = ("nets", "sets", "train", "evaluate", "controls", "galleries", "transfer")
SOURCES = ("standard", "adversarial")
NETS = "fastadv.studies.ilyas2019.nets"


@dataclass(frozen=True)
class Architecture:
    """A model of `fa.models` with its options, by the name that tables show."""

    title: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A line of the paper's table of training (appendix C): SGD, momentum 0.9, weight decay 5e-4.

    augmented: by the augmentation of the scale. epochs: None for those of the scale.
    """

    learning_rate: float = 0.1
    augmented: bool = True
    schedule: str = "step"
    epochs: int | None = None


TABLE = {"random_target": Training(learning_rate=0.01), "fixed_shift": Training(augmented=False)}
"""The constructions on which the paper trains otherwise than on the images themselves."""
FEW_EPOCHS = TABLE | {"random_target": Training(learning_rate=0.01, augmented=False)}
"""The same for few epochs: augmented, D_rand then teaches nothing, and at rate 0.1 only by chance."""


@dataclass(frozen=True)
class Settings:
    """All that the pipeline depends on. Radii and step sizes are L2, in input units, images in [0, 1].

    data, size, images   the set by its name, its side where it is resized, how many images (None: all).
    inverted             how many of these the inverted sets are made from (None: all). Their nets train for
                         more epochs, so that they take as many steps as on all.
    architecture         of the nets that sets are made with and taught to; `others` are for transfer.
    near                 whether D_rand and D_det are also made within the paper's own radius.
    tested               test images under attack, None for all; without an attack all are read.
    early_epochs         of the net whose mistakes are a training set of their own.
    training             of nets on sets of these constructions; on others as on the images.
    """

    scale: str
    data: str
    architecture: Architecture
    others: tuple[Architecture, ...]
    size: int | None = None
    images: int | None = None
    inverted: int | None = None
    tested: int | None = None
    epochs: int = 150
    batch_size: int = 128
    augment: str | None = "crop_flip"
    precision: str = "fp32"
    train_radius: float = 0.5
    train_steps: int = 7
    invert_steps: int = CIFAR10_PAPER["d_r"]["steps"]
    invert_step_size: float = CIFAR10_PAPER["d_r"]["step_size"]
    push_radius: float = float(CIFAR10_PAPER["d_rand"]["threat"].radius)
    push_steps: int = CIFAR10_PAPER["d_rand"]["steps"]
    push_step_size: float = CIFAR10_PAPER["d_rand"]["step_size"]
    near: bool = False
    radii: tuple[float, ...] = (0.25, 0.5)
    attack_steps: int = 100
    early_epochs: int = 2
    training: Mapping[str, Training] = field(default_factory=lambda: TABLE)
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ["epochs", "batch_size", "train_steps", "invert_steps", "push_steps", "attack_steps"]
        counts += [
            name for name in ("size", "images", "inverted", "tested") if getattr(self, name) is not None
        ]
        for name in (*counts, "early_epochs"):
            check_count(name, getattr(self, name), 1)
        for name in ("train_radius", "invert_step_size", "push_radius", "push_step_size"):
            if check_number(name, getattr(self, name)) <= 0:
                raise InputError(f"{name}: expected a number > 0, got {getattr(self, name)}")
        if check_radii(self.radii)[0] <= 0:
            raise InputError(f"radii: expected numbers > 0, got {self.radii}")
        check_seed(self.seed)
        if self.inverted is not None and self.images is not None and self.inverted > self.images:
            raise InputError(f"inverted: expected at most the {self.images} images, got {self.inverted}")

    @property
    def sets(self) -> tuple[str, ...]:
        """The constructed sets that are made."""
        return tuple(name for name, kind in KINDS.items() if self.near or not kind.near)

    @property
    def pushed(self) -> tuple[str, ...]:
        """Those of them whose images are pushed towards a class."""
        return tuple(name for name in self.sets if not KINDS[name].inverts)

    @property
    def nets(self) -> tuple[str, ...]:
        """The nets that are attacked: those that sets are made with, and one taught by each set."""
        return (*SOURCES, *self.sets)

    def attack(self, radius: float) -> str:
        """Return the name of the attack at that radius."""
        return f"PGD L2 {radius:g}"

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON gives them back."""
        return plain(asdict(self))


def _on_cifar10(title: str, model: str, **options: Any) -> Architecture:
    return Architecture(title, model, {**options, "normalize": "cifar10"})


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
        "cpu", "cifar10", _on_cifar10("ResNet-18", "resnet18", width=16),
        (
            _on_cifar10("small CNN", "small_cnn", width=32),
            _on_cifar10("VGG-11", f"{NETS}:vgg", depth=11, width=16),
            _on_cifar10("DenseNet-22", f"{NETS}:densenet", depth=22, growth=12),
            _on_cifar10("Inception", f"{NETS}:inception", width=6),
            _on_cifar10("WRN-10-2", "wide_resnet", depth=10, widen_factor=2),
            _on_cifar10("PreAct-ResNet-18", "preact_resnet18", width=16),
            _on_cifar10("ResNet-18, narrow", "resnet18", width=8),
            _on_cifar10("ResNet-18", "resnet18", width=16),
        ),
        inverted=10_000, tested=1000, epochs=15, precision="bf16", invert_steps=150, invert_step_size=0.2,
        push_radius=1.0, push_steps=20, push_step_size=0.2, near=True, training=FEW_EPOCHS,
    ),
    "paper": Settings(
        "paper", "cifar10", _on_cifar10("ResNet-50", "resnet50"),
        (
            _on_cifar10("small CNN", "small_cnn", width=64),
            _on_cifar10("VGG-16", f"{NETS}:vgg", depth=16),
            _on_cifar10("DenseNet-100", f"{NETS}:densenet", depth=100),
            _on_cifar10("Inception", f"{NETS}:inception"),
            _on_cifar10("WRN-16-4", "wide_resnet", depth=16, widen_factor=4),
            _on_cifar10("PreAct-ResNet-18", "preact_resnet18"),
            _on_cifar10("ResNet-18", "resnet18"),
            _on_cifar10("ResNet-50", "resnet50"),
        ),
    ),
}  # fmt: skip
"""The embedded digits, in a minute or two; CIFAR-10 on the cores of a desktop; the paper's own, for a GPU."""


def choose(scale: str, **given: Any) -> Settings:
    """Return the settings of a scale with others in their place where they are given, not None."""
    if scale not in SCALES:
        raise InputError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    options = {name: value for name, value in given.items() if value is not None}
    own, images = SCALES[scale].inverted, options.get("images")
    if own is not None and images is not None and images <= own:
        options.setdefault("inverted", None)  # of fewer images all
    return replace(SCALES[scale], **options)


def check_stages(stages: Iterable[str]) -> tuple[str, ...]:
    """Return the stages in the order in which they run; InputError for an unknown one, or none."""
    wanted = set(stages)
    unknown = sorted(wanted - set(STAGES))
    if unknown or not wanted:
        raise InputError(f"stages: expected some of {', '.join(STAGES)}, got {', '.join(unknown) or 'none'}")
    return tuple(stage for stage in STAGES if stage in wanted)
