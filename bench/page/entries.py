"""The lines of the benchmarks page: what each is called, and the rows that it shows.

Every comparison with a peer stands here, those that fastadv loses too.
"""

from dataclasses import dataclass

from bench.page.rows import duration
from bench.providers import EARLY, FROZEN

BOTH = ("fastadv fp32", "fastadv bf16")
TORCHATTACKS, ADV_LIB, FOOLBOX = "torchattacks 3.5.1", "adv-lib 0.2.8", "foolbox 3.3.4"
ABS = "ABS, authors' weights, * test images, batches of 100"
ALONE = "ABS, authors' weights, 1 images, alone"
# the problems of PGD, as the figure names them
PGD = {
    "CNN of Schott et al. on MNIST, PGD-40, 256 images": (
        "PGD-40 Linf 0.3, 256 images, published vanilla CNN, MNIST test"
    ),
    "MLP 784-256-10, PGD-40, 1,024 images": "PGD-40 Linf 0.3, 1024 images, MLP 784-256-10",
    "small CNN on 32×32, PGD-20, 256 images": "PGD-20 Linf 0.0314, 256 images, small CNN of width 32",
    "ResNet-18 on 32×32, PGD-10, 64 images": "PGD-10 Linf 0.0314, 64 images, ResNet-18",
}


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    names      of its rows, where * stands for anything: the newest that fits counts
    providers  whose rows are shown for each name
    column     that says how many times faster than `against`
    whole      all rows that fit are shown, as the least and the most
    base       milliseconds of `against`, in place of a column
    """

    label: str
    against: str
    names: tuple[str, ...]
    providers: tuple[str, ...] = ("fastadv fp32",)
    column: str = "times_peer"
    whole: bool = False
    base: float | None = None


def step(op: str, against: str, *shapes: str) -> Entry:
    return Entry(
        f"`{op}`, {' / '.join(shapes)}", against, tuple(f"{op}_ {shape}" for shape in shapes),
        ("fastadv",), "times_eager",
    )  # fmt: skip


def pgd(label: str) -> Entry:
    return Entry(f"{label}, fp32 / bf16 search", TORCHATTACKS, (PGD[label],), BOTH, "times_torchattacks")


def quick(label: str, against: str, *cases: str, whole: bool = False) -> Entry:
    """Short budgets on 25 images."""
    return Entry(label, against, tuple(f"{case}, cnn, quick" for case in cases), whole=whole)


def loop(label: str, name: str) -> Entry:
    return Entry(label, "the loop in eager PyTorch", (name,), BOTH, "times_eager")


def authors(label: str, taken: float, name: str, providers: tuple[str, ...] = ("fastadv fp32",)) -> Entry:
    """ABS against the authors' code, which is no provider: it ran once, see docs/papers/abs.md."""
    return Entry(label, f"the authors' code, {duration(taken)}", (name,), providers, base=taken)


SHAPES = ("1000×3×32×32", "4000×3×32×32", "1×8")
CNN, *_, RESNET = PGD
ENTRIES: tuple[Entry, ...] = (
    step("linf_step", "eager PyTorch, six ops", *SHAPES),
    step("l2_step", "eager PyTorch, rescale and clamp: no exact projection", *SHAPES),
    step("l1_step", "eager PyTorch, by sorting", *SHAPES),
    *map(pgd, PGD),
    Entry(f"{RESNET}, frozen once, fp32 / bf16", TORCHATTACKS, (PGD[RESNET],), FROZEN, "times_torchattacks"),
    Entry(
        f"{CNN}, fp32, stopping at success", TORCHATTACKS, (PGD[CNN],),
        (EARLY,), "times_torchattacks",
    ),
    Entry(
        "FGSM / BIM / MIM, L∞ 0.1, 100 images", TORCHATTACKS,
        tuple(f"{case}-linf-0.1, cnn, full" for case in ("fgsm", "bim", "mim")),
    ),
    Entry("APGD, 100 steps, 100 images", "auto-attack", ("apgd-*, cnn, full",), whole=True),
    Entry("AutoAttack standard, 100 images", "auto-attack", ("autoattack-l*, full",), whole=True),
    Entry("AutoAttack quick, PGD-trained CNNs", "auto-attack standard", ("autoattack-quick-*",), whole=True),
    Entry("DeepFool L2 / L∞, 100 images", ADV_LIB, ("deepfool-l2, cnn, full", "deepfool-linf, cnn, full")),
    Entry("Boundary L2 / pointwise L0", FOOLBOX, ("boundary-l2, cnn, full", "pointwise-l0, cnn, full")),
    quick("FMN L∞ / L2 / L1 / L0, 25 images", ADV_LIB, "fmn-linf", "fmn-l2", "fmn-l1", "fmn-l0"),
    quick("Carlini-Wagner L2 / L∞, 10 and 5 images", ADV_LIB, "cw-l2", "cw-linf"),
    quick("EAD L1, 10 images (foolbox's default rule; twice the passes, and nearer)", FOOLBOX, "ead-l1"),
    quick("sigma-zero L0, 25 images", ADV_LIB, "sigma_zero-l0"),
    quick("PDPGD and PDGD, 25 images", ADV_LIB, "pdpgd-*", "pdgd-*", whole=True),
    quick("FAB and FAB-T, 25 images", ADV_LIB, "fab-*", whole=True),
    quick("Square, 25 images", "auto-attack, torchattacks", "square-*", whole=True),
    quick("Sparse-RS L0, 25 images", "the authors' code", "sparse_rs-*", whole=True),
    quick("HopSkipJump L2 / salt and pepper L0", FOOLBOX, "hopskipjump-l2", "salt_and_pepper-l0"),
    loop("PGD-7 training, small CNN, fp32 / bf16", "PGD-7 training, small_cnn, *"),
    loop("PGD-7 training, ResNet-18, fp32 / bf16", "PGD-7 training, resnet18, *"),
    loop("D_rand of Ilyas et al., fp32 / bf16", "D_rand, *"),
    loop("D_R of Ilyas et al., fp32 / bf16", "D_R, *"),
    authors("ABS on MNIST, one image of 100, fp32 / bf16 / `prune`", 57, ABS, (*BOTH, "fastadv prune")),
    authors("ABS, an image alone", 745, ALONE),
    loop("ABS training, for each image, fp32 / bf16", "ABS training, *"),
    authors("ABS, bank of prior samples", 22_000, "bank of *", ("fastadv",)),
)  # fmt: skip
