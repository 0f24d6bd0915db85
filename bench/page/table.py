"""The table of every comparison on the benchmarks page, and the part of a page between two marks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.pgd import EARLY, FROZEN
from bench.records import RESULTS, ROOT, Row, recorded
from fastadv.text import in_markdown

FILES = ("cpu.jsonl", "suite_cpu.jsonl")
# of what nobody can save, measured in the same run: the passes, a copy of the same bytes, multiply-adds
SHARES = ("share_of_ceiling", "share_of_copy", "share_of_fma_rate")


def name(row: Row) -> str:
    """What was measured; the shape where one op has several, the model and the budget of an attack's case."""
    if "case" in row:
        return f"{row['case']}, {row['model']}, {row['variant']}"
    return f"{row['what']} {'×'.join(map(str, row['shape']))}" if "shape" in row else str(row["what"])


def milliseconds(row: Row) -> float | None:
    if "seconds" in row:
        return 1000 * float(row["seconds"])
    return next((float(row[key]) for key in ("ms_per_image", "p50_ms") if key in row), None)


def share(row: Row) -> float | None:
    """The time that nobody can save over this one's, where the run measured it."""
    if "over_ideal" in row:
        return 1 / float(row["over_ideal"])
    return next((float(row[key]) for key in SHARES if key in row), None)


@dataclass(frozen=True)
class Rows:
    """The newest row of each (name, provider), oldest first."""

    newest: dict[tuple[str, str], Row]

    @classmethod
    def stored(cls) -> "Rows":
        found: dict[tuple[str, str], Row] = {}
        stored = [row for file in FILES for row in recorded(RESULTS / file)]
        for row in sorted(stored, key=lambda row: row["date"]):
            key = name(row), row["provider"]
            found.pop(key, None)
            found[key] = row
        return cls(found)

    def fitting(self, pattern: str, provider: str) -> list[Row]:
        """Those whose name fits, where * stands for anything; the newest last."""
        found = [(what, row) for (what, by), row in self.newest.items() if by == provider]
        return [row for what, row in found if fnmatchcase(what, pattern)]


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def duration(taken: float) -> str:
    for unit, size in (("s", 1000.0), ("ms", 1.0)):
        if taken >= size:
            return f"{number(taken / size)} {unit}"
    return f"{number(taken * 1000)} µs"


BOTH = ("fastadv fp32", "fastadv bf16")
TORCHATTACKS, ADV_LIB = "torchattacks 3.5.1", "adv-lib 0.2.8"
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
    """One line of the table; of the rows that fit, the newest counts."""

    label: str
    against: str
    names: tuple[str, ...]  # of its rows, where * stands for anything
    providers: tuple[str, ...] = ("fastadv fp32",)  # whose rows are shown for each name
    column: str = "times_peer"  # that says how many times faster than `against`
    whole: bool = False  # all rows that fit are shown, as the least and the most
    base: float | None = None  # milliseconds of `against`, in place of a column


def step(op: str, against: str) -> Entry:
    names = tuple(f"{op}_ {shape}" for shape in SHAPES)
    return Entry(f"`{op}`, {' / '.join(SHAPES)}", against, names, ("fastadv",), "times_eager")


def pgd(label: str) -> Entry:
    return Entry(f"{label}, fp32 / bf16 search", TORCHATTACKS, (PGD[label],), BOTH, "times_torchattacks")


def loop(label: str, name: str) -> Entry:
    return Entry(label, "the loop in eager PyTorch", (name,), BOTH, "times_eager")


def authors(label: str, taken: float, name: str, providers: tuple[str, ...] = ("fastadv fp32",)) -> Entry:
    """ABS against the authors' code, which is no provider: it ran once, see docs/papers/abs.md."""
    return Entry(label, f"the authors' code, {duration(taken)}", (name,), providers, base=taken)


SHAPES = ("1000×3×32×32", "4000×3×32×32", "1×8")
CNN, *_, RESNET = PGD
ENTRIES: tuple[Entry, ...] = (
    step("linf_step", "eager PyTorch, six ops"),
    step("l2_step", "eager PyTorch, rescale and clamp: no exact projection"),
    step("l1_step", "eager PyTorch, by sorting"),
    *map(pgd, PGD),
    Entry(f"{RESNET}, frozen once, fp32 / bf16", TORCHATTACKS, (PGD[RESNET],), FROZEN, "times_torchattacks"),
    Entry(f"{CNN}, fp32, stopping at success", TORCHATTACKS, (PGD[CNN],), (EARLY,), "times_torchattacks"),
    Entry("APGD, 20 steps, 25 images", "the fastest other", ("apgd-*, quick",), whole=True),
    Entry("AutoAttack standard, 10 images", "auto-attack", ("autoattack-l*, quick",), whole=True),
    Entry("DeepFool, 25 images", ADV_LIB, ("deepfool-*, quick",), whole=True),
    Entry("FMN, PDPGD, PDGD, FAB, sigma-zero, 25 images", ADV_LIB,
          tuple(f"{case}-*, quick" for case in ("fmn", "pd*", "fab", "sigma_zero")), whole=True),
    Entry("Square, 25 images", "auto-attack", ("square-*, quick",), whole=True),
    loop("PGD-7 training, small CNN, fp32 / bf16", "PGD-7 training, small_cnn, *"),
    loop("PGD-7 training, ResNet-18, fp32 / bf16", "PGD-7 training, resnet18, *"),
    loop("D_rand of Ilyas et al., fp32 / bf16", "D_rand, *"),
    loop("D_R of Ilyas et al., fp32 / bf16", "D_R, *"),
    authors("ABS on MNIST, one image of 100, fp32 / bf16 / `prune`", 57, ABS, (*BOTH, "fastadv prune")),
    authors("ABS, an image alone", 745, ALONE),
    loop("ABS training, for each image, fp32 / bf16", "ABS training, *"),
    authors("ABS, bank of prior samples", 22_000, "bank of *", ("fastadv",)),
)  # fmt: skip


README = ROOT / "README.md"
HEAD = ["what", "against", "times faster", "here", "share of the ceiling"]


def portion(value: float) -> str:
    return number(value) if value >= 0.005 else "–"


def factor(value: float) -> str:
    return f"**{number(value)}**" if round(value, 2) < 1 else number(value)


def times(entry: Entry, row: Row) -> float:
    if entry.base:
        return entry.base / (milliseconds(row) or float("nan"))
    return float(row[entry.column])


def chosen(entry: Entry, rows: Rows) -> list[Row]:
    """The rows of a line in its order; none where one is missing."""
    found = []
    for pattern in entry.names:
        for provider in entry.providers:
            fitting = rows.fitting(pattern, provider)
            if not fitting:
                return []
            found += fitting if entry.whole else fitting[-1:]
    return found


def cell(values: Sequence[float | None], show: Callable[[float], str], whole: bool) -> str:
    """The figures of a line, or the least and the most of them; nothing where a row lacks its own."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    if whole:
        return " to ".join(dict.fromkeys(map(show, (min(known), max(known)))))
    return " / ".join(map(show, known))


def line(entry: Entry, found: Sequence[Row]) -> list[str]:
    cells = [entry.label, entry.against, cell([times(entry, row) for row in found], factor, entry.whole)]
    for figure, show in ((milliseconds, duration), (share, portion)):
        cells.append(cell(list(map(figure, found)), show, entry.whole))
    return cells


def origin(used: Sequence[Row]) -> str:
    machines, versions, commits = (
        ", ".join(sorted({say.format(**row) for row in used}))
        for say in ("{cpu} ({threads} threads)", "{torch}", "{commit}")
    )
    days = sorted({row["date"][:10] for row in used})
    return (
        f"Measured on {machines} with PyTorch {versions}, {' to '.join(dict.fromkeys((days[0], days[-1])))}, "
        f"commits {commits}."
    )


def memory(rows: Rows) -> str:
    row = rows.fitting("peak memory, *", "fastadv pgd")[-1]
    return (
        f"The peak memory of PGD on a CNN ({row['mib']:.0f} MiB for 1,000 images) is "
        f"{number(row['times_forward_backward'])} of that of one eager forward and backward pass."
    )


def section(rows: Rows) -> str:
    lines = [line(entry, found) for entry in ENTRIES if (found := chosen(entry, rows))]
    used = [row for entry in ENTRIES for row in chosen(entry, rows)]
    return f"{in_markdown([HEAD, *lines], names=5)}\n\n{origin(used)} {memory(rows)}\n"


def replaced(page: str, inside: str, name: str = "speed") -> str:
    """The page with the part between the marks of that name written anew."""
    begin, end = f"<!-- {name}: written by python -m bench.page -->\n", f"<!-- end of {name} -->"
    before, mark, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not (mark and last):
        raise SystemExit(f"bench: expected the marks {begin.strip()} and {end} in the page, found none")
    return f"{before}{mark}{inside}{last}{after}"
